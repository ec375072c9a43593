"""From OVF properties to settings, and the problems of malformed ones."""

import pytest

from appliance.config.table import PROPERTY
from appliance.provision.files import serves
from appliance.provision.properties import settings_of
from appliance.provision.reader import Malformed
from tests.appliance.provision.values import LEAST
from tests.live.certificates import Authority


def test_the_required_properties_are_enough() -> None:
    settings = settings_of(LEAST)
    assert settings.vchd["tenant"] == "vch"
    assert [one.roles for one in settings.interfaces] == [("public", "client", "management"), ("bridge",)]
    assert settings.verify
    assert not serves(settings)


def test_all_problems_are_reported_at_once_without_secrets() -> None:
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
def test_values_that_contradict_each_other(more: dict[str, str], problem: str) -> None:
    with pytest.raises(Malformed) as caught:
        settings_of({**LEAST, **more})
    assert caught.value.problems == [problem]


def test_a_key_must_belong_to_its_certificate(authority: Authority) -> None:
    (certificate, key), (_, other) = authority.sign("/CN=a", "127.0.0.1"), authority.sign("/CN=b", "127.0.0.1")
    good = {**LEAST, "tls-cert": certificate.read_text(), "tls-key": key.read_text()}
    assert settings_of(good).tls_key
    with pytest.raises(Malformed, match="the key is not the certificate's"):
        settings_of({**good, "tls-key": other.read_text()})
    with pytest.raises(Malformed, match="set both or neither"):
        settings_of({**LEAST, "tls-cert": certificate.read_text()})


def test_ssh_is_off_and_verification_on_by_default() -> None:
    assert {key: PROPERTY[key].default for key in ("ssh", "tls-verify")} == {"ssh": "false", "tls-verify": "true"}


def test_a_setting_becomes_a_key_of_vchd() -> None:
    values = {"vm-memory": "512", "labels": "a=b, c=d", "no-proxy": "x.test", "storage-quota": "10g", "vm-firmware": ""}
    vchd = settings_of({**LEAST, **values}).vchd
    assert (vchd["vm-memory"], vchd["labels"], vchd["storage-quota"]) == (512, ["a=b", "c=d"], "10g")
    assert vchd["proxies"] == {"no-proxy": "x.test"}
    # An empty text leaves the default to vchd.
    assert "vm-firmware" not in vchd


def test_api_sockets_are_scoped_unless_a_property_says_otherwise() -> None:
    for given, role in (
        ({}, "scoped"),
        ({"docker-socket-default": ""}, "scoped"),
        ({"docker-socket-default": "read"}, "read"),
    ):
        assert settings_of({**LEAST, **given}).vchd["docker-socket-default"] == role


def test_each_kind_of_login_takes_its_own_properties() -> None:
    both = {**LEAST, "vsphere-ticket": "ticket", "tenant": "prod"}
    password = settings_of(both)
    assert password.files == {"vsphere-password": "very s3cret"}
    assert password.vchd["vsphere-password-file"] == "/run/appliance/vsphere-password"
    assert "vsphere-ticket-file" not in password.vchd
    extension = settings_of({**both, "vsphere-login": "extension"})
    assert extension.files == {"vsphere-ticket": "ticket"}
    assert (extension.vchd["vsphere-extension"], extension.vchd["vsphere-tunnel-port"]) == ("vch.prod", 80)
    assert not {"vsphere-user", "vsphere-password-file"} & extension.vchd.keys()


def test_a_password_keeps_its_blanks() -> None:
    assert settings_of({**LEAST, "vsphere-password": " a b "}).files["vsphere-password"] == " a b "
