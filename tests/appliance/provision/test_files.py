"""The files that the settings of an appliance become."""

from pathlib import Path

from appliance.config import parse_arguments
from appliance.provision.files import Nic, files_of, problems_on_console
from appliance.provision.properties import settings_of
from tests.appliance.provision.values import LEAST, NICS
from tests.live.certificates import Authority


def test_the_files_of_an_appliance(authority: Authority, tmp_path: Path) -> None:
    certificate, key = (path.read_text() for path in authority.sign("/CN=a", "127.0.0.1"))
    values = {
        **LEAST,
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


def test_the_api_is_not_served_without_a_way_to_verify_clients() -> None:
    files = files_of(settings_of(LEAST), NICS, "c", "k", "AA")
    assert "tcp://" not in files["/run/appliance/vchd.json"].content
    assert "not served by network" in files["/run/issue.d/vch.issue"].content
    files = files_of(settings_of({**LEAST, "tls-verify": "false"}), NICS, "c", "k", "AA")
    assert '"tls": true' in files["/run/appliance/vchd.json"].content
    assert "CLIENTS ARE NOT VERIFIED" in files["/run/issue.d/vch.issue"].content


def test_the_console_shows_problems_without_control_characters() -> None:
    text = problems_on_console(["dns: 'x\x1b[2J' is not an address", r"hostname: '\4'"])
    assert "\x1b" not in text
    assert r"'\\4'" in text
