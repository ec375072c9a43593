"""The settings of vchd, from flags and from the configuration file."""

import json
from pathlib import Path

import pytest

from appliance.config import parse_arguments, required
from appliance.errors import InvalidParameter


def _file(folder: Path, content: object) -> str:
    path = folder / "daemon.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    content = {
        "labels": ["a=b"],
        "log-level": "debug",
        "vm-template": "off",
        "proxies": {"http-proxy": "http://file.test", "no-proxy": "x.test"},
    }
    config = parse_arguments(
        ["--config-file", _file(tmp_path, content), "--log-level", "error", "--no-proxy", "y.test"]
    )
    assert (config.labels, config.log_level, config.vm_template) == (("a=b",), "error", False)
    assert (config.http_proxy, config.https_proxy, config.no_proxy) == ("http://file.test", "", "y.test")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"unheard-of": 1}, "unheard-of"),
        ({"proxies": {"ftp-proxy": "x"}}, "proxies.ftp-proxy"),
        ({"proxies": ["x"]}, "it holds no settings"),
        ([], "it holds no settings"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, content: object, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        parse_arguments(["--config-file", _file(tmp_path, content)])


def test_settings_of_vsphere(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    settings = {
        "hypervisor": "vsphere",
        "vsphere": "vcenter.test:8443",
        "vsphere-password-file": "/run/secret",
        "tenant": "ours",
        "volume-stores": ["fast=SSD"],
        "quick-port": 99,
        "tlsverify": True,
        "tls-allow": ["read:CN=x"],
    }
    file.write_text(json.dumps(settings))
    config = parse_arguments(["--config-file", str(file), "--tenant", "theirs", "--bridge-network", "VM Network"])
    vsphere = config.vsphere
    assert (config.hypervisor, vsphere.vsphere, vsphere.tenant) == ("vsphere", "vcenter.test:8443", "theirs")
    assert (vsphere.vsphere_password_file, vsphere.quick_port) == (Path("/run/secret"), 99)
    assert (config.volume_stores, vsphere.bridge_network) == (("fast=SSD",), "VM Network")
    assert (config.tlsverify, config.tls_allow) == (True, ("read:CN=x",))
    assert required(vsphere, "bridge_network") == "VM Network"
    with pytest.raises(InvalidParameter, match="--hypervisor vsphere needs --bridge-interface"):
        required(vsphere, "bridge_interface")
