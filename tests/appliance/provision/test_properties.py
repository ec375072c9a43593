"""What OVF properties mean, and what is said of those that mean nothing."""

import base64
from pathlib import Path

import pytest

from appliance.config import parse_arguments
from appliance.config.table import PROPERTY
from appliance.errors import InvalidParameter
from appliance.provision.environment import Environment, encode, parse
from appliance.provision.files import Nic, files_of, serves
from appliance.provision.main import fingerprint, nics_of, provision, with_kept_secrets
from appliance.provision.pem import pem
from appliance.provision.properties import settings_of
from appliance.provision.reader import Malformed
from tests.live.certificates import Authority

_LEAST = {
    "vsphere": "vc.example",
    "vsphere-user": "vch",
    "vsphere-password": "very s3cret",
    "bridge-network": "Containers",
}
_CARDS = [Nic("ens192", "00:50:56:00:00:01"), Nic("ens224", "00:50:56:00:00:02")]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def test_the_least_that_has_to_be_said() -> None:
    settings = settings_of(_LEAST)
    assert settings.vchd["tenant"] == "vch"
    assert [one.roles for one in settings.interfaces] == [("public", "client", "management"), ("bridge",)]
    assert settings.verify
    assert not serves(settings)


def test_all_that_is_wrong_is_said_at_once_and_no_secret() -> None:
    with pytest.raises(Malformed) as caught:
        settings_of(
            {
                "vsphere-password": "very s3cret",
                "interfaces": "public,moon",
                "public-address": "10.0.0.1",
                "dns": "1.2.3.4,x",
                "bip": "10.0.0.1/40",
                "volume-stores": "x",
                "container-networks": "name=x",
                "vspc-allow": "10.0.0.0/33",
                "vm-memory": "1",
                "vm-firmware": "coreboot",
                "tls-ca": "nonsense",
                "tls-key": "also s3cret",
                "tls-verify": "perhaps",
                "tls-allow": "all:CN=x",
                "ssh-key": "rsa?",
                "hostname": "-",
                "log-level": "loud",
            }
        )
    named = [problem.partition(":")[0] for problem in caught.value.problems]
    assert {
        "vsphere",
        "vsphere-user",
        "bridge-network",
        "interfaces",
        "dns",
        "bip",
        "volume-stores",
        "container-networks",
        "vspc-allow",
        "vm-memory",
        "vm-firmware",
        "tls-ca",
        "tls-key",
        "tls-verify",
        "tls-allow",
        "ssh-key",
        "hostname",
        "log-level",
    } <= set(named)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"interfaces": "public"}, "interfaces: bridge is missing"),
        ({"interfaces": "public,bridge,public"}, "interfaces: a network is named twice"),
        (
            {"public-address": "10.0.0.5/24", "public-gateway": "10.0.1.1"},
            "public-gateway: 10.0.1.1 is not in 10.0.0.0/24",
        ),
        (
            {"tls-verify": "false", "tls-allow": "full:CN=x"},
            "tls-allow: needs tls-verify: without it clients do not prove who they are",
        ),
    ],
)
def test_what_does_not_go_together(more: dict[str, str], problem: str) -> None:
    with pytest.raises(Malformed) as caught:
        settings_of({**_LEAST, **more})
    assert caught.value.problems == [problem]


def test_pem_comes_through_forms(authority: Authority) -> None:
    text = authority.certificate.read_text()
    for form in (text, text.replace("\n", " "), base64.b64encode(text.encode()).decode(), f"{text}\n{text}"):
        assert settings_of({**_LEAST, "tls-ca": form}).tls_ca.startswith(text)
    with pytest.raises(ValueError, match="neither PEM nor base64"):
        pem("-")


def test_a_key_has_to_be_its_certificates(authority: Authority) -> None:
    (certificate, key), (_, other) = authority.sign("/CN=a", "127.0.0.1"), authority.sign("/CN=b", "127.0.0.1")
    good = {**_LEAST, "tls-cert": certificate.read_text(), "tls-key": key.read_text()}
    assert settings_of(good).tls_key
    with pytest.raises(Malformed, match="the key is not the certificate's"):
        settings_of({**good, "tls-key": other.read_text()})
    with pytest.raises(Malformed, match="one without the other"):
        settings_of({**_LEAST, "tls-cert": certificate.read_text()})


def test_an_environment_is_what_it_was() -> None:
    values = {"a": 'quotes " and <angles> & more', "b": "two\nlines"}
    assert parse(encode(values)).values["a"] == values["a"]
    with pytest.raises(InvalidParameter, match="OVF environment"):
        parse(b"<a/>")
    for text in (b"", b"\xff\xfe", b"<Environment", b"x" * (2 << 20)):
        with pytest.raises(InvalidParameter, match="OVF environment"):
            parse(text)


def test_cards_are_in_the_order_that_vcenter_tells() -> None:
    environment = parse(
        b"""<?xml version="1.0"?><Environment xmlns="http://schemas.dmtf.org/ovf/environment/1"
        xmlns:ve="http://www.vmware.com/schema/ovfenv" xmlns:oe="http://schemas.dmtf.org/ovf/environment/1">
        <PropertySection><Property oe:key="tenant" oe:value="t"/></PropertySection>
        <ve:EthernetAdapterSection>
        <ve:Adapter ve:mac="00:50:56:00:00:01" ve:network="Containers" ve:unitNumber="8"/>
        <ve:Adapter ve:mac="00:50:56:00:00:02" ve:network="Public" ve:unitNumber="7"/>
        </ve:EthernetAdapterSection></Environment>"""
    )
    assert environment.values == {"tenant": "t"}
    settings = settings_of(_LEAST)
    assert [nic.name for nic in nics_of(settings, environment.nics, _CARDS)] == ["ens224", "ens192"]
    assert [nic.name for nic in nics_of(settings, (), _CARDS)] == ["ens192", "ens224"]
    with pytest.raises(Malformed, match="2 networks are named, but there are 1 NICs"):
        nics_of(settings, (), _CARDS[:1])


def test_files_say_what_the_settings_do(authority: Authority, tmp_path: Path) -> None:
    certificate, key = (path.read_text() for path in authority.sign("/CN=a", "127.0.0.1"))
    values = {
        **_LEAST,
        "public-address": "192.0.2.10/24",
        "public-gateway": "192.0.2.1",
        "dns": "192.0.2.53",
        "ntp": "ntp.example",
        "interfaces": "bridge,public,management",
        "management-address": "10.9.0.2/16",
        "management-routes": "10.0.0.0/8=10.9.0.1",
        "tls-ca": authority.certificate.read_text(),
        "tls-cert": certificate,
        "tls-key": key,
        "tls-allow": "read:OU=view",
        "volume-stores": "fast=SSD",
        "http-proxy": "http://proxy.example:3128",
        "thumbprint": "ab" * 20,
    }
    nics = [Nic("ens1", "00:50:56:00:00:01"), Nic("ens2", "00:50:56:00:00:02"), Nic("ens3", "00:50:56:00:00:03")]
    files = files_of(settings_of(values), nics, certificate, key, "AA:BB")
    public = files["/run/systemd/network/10-public.network"].content
    assert "MACAddress=00:50:56:00:00:02" in public
    assert "Gateway=192.0.2.1\nDNS=192.0.2.53\nNTP=ntp.example" in public
    assert "Unmanaged=yes" in files["/run/systemd/network/10-bridge.network"].content
    management = files["/run/systemd/network/10-management.network"].content
    assert "[Route]\nDestination=10.0.0.0/8\nGateway=10.9.0.1" in management
    assert "DNS=192" not in management
    rules = files["/run/appliance/firewall.nft"].content
    assert 'iifname { "ens2" } tcp dport 2376 accept' in rules
    assert 'iifname { "ens3" } tcp dport 2377 accept' in rules
    assert "dport 22 accept" not in rules
    # Only root and the daemon read secrets, and the console shows none.
    assert not any(file.public for file in files.values() if "s3cret" in file.content or "PRIVATE KEY" in file.content)
    console = files["/run/issue.d/vch.issue"].content
    assert "SHA-256 AA:BB" in console
    assert r"DOCKER_HOST=tcp://\4{ens2}:2376 DOCKER_TLS_VERIFY=1" in console
    # vchd takes it.
    file = tmp_path / "vchd.json"
    file.write_text(files["/run/appliance/vchd.json"].content)
    config = parse_arguments(["--config-file", str(file)])
    assert config.tlsverify
    assert config.tls_allow == ("read:OU=view",)
    assert config.vsphere.bridge_interface == "ens1"
    assert config.volume_stores == ("fast=SSD",)
    assert config.http_proxy == "http://proxy.example:3128"


def test_nobody_is_served_who_could_not_be_known() -> None:
    files = files_of(settings_of(_LEAST), _CARDS, "c", "k", "AA")
    assert "tcp://" not in files["/run/appliance/vchd.json"].content
    assert "not served by network" in files["/run/issue.d/vch.issue"].content
    files = files_of(settings_of({**_LEAST, "tls-verify": "false"}), _CARDS, "c", "k", "AA")
    assert '"tls": true' in files["/run/appliance/vchd.json"].content
    assert "CLIENTS ARE NOT VERIFIED" in files["/run/issue.d/vch.issue"].content


def test_secrets_are_kept_when_the_properties_have_none_any_more(tmp_path: Path) -> None:
    kept = tmp_path / "kept/secrets.json"
    assert with_kept_secrets(_LEAST, kept)["vsphere-password"] == "very s3cret"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert with_kept_secrets({**_LEAST, "vsphere-password": ""}, kept)["vsphere-password"] == "very s3cret"
    assert with_kept_secrets({**_LEAST, "vsphere-password": "new"}, kept)["vsphere-password"] == "new"
    assert with_kept_secrets({}, kept)["vsphere-password"] == "new"
    kept.write_text("{")
    with pytest.raises(InvalidParameter, match=r"secrets\.json"):
        with_kept_secrets({}, kept)


def test_an_appliance_makes_a_certificate_for_itself_once(tmp_path: Path) -> None:
    environment = Environment({**_LEAST, "public-address": "192.0.2.10/24", "tls-verify": "false"}, ())
    provision(environment, tmp_path, _CARDS)
    first = (tmp_path / "run/appliance/cert.pem").read_text()
    provision(environment, tmp_path, _CARDS)
    assert (tmp_path / "run/appliance/cert.pem").read_text() == first
    assert fingerprint(first) in (tmp_path / "run/issue.d/vch.issue").read_text()
    # Another address, another certificate.
    provision(Environment({**_LEAST, "public-address": "192.0.2.11/24"}, ()), tmp_path, _CARDS)
    assert (tmp_path / "run/appliance/cert.pem").read_text() != first


def test_defaults_are_what_they_should_be() -> None:
    assert {key: PROPERTY[key].default for key in ("ssh", "tls-verify")} == {"ssh": "false", "tls-verify": "true"}
