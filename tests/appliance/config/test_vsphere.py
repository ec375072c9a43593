"""The settings for vSphere."""

import pytest

from appliance.config import VsphereConfig, parse_arguments, required
from appliance.errors import InvalidParameter


def test_flags_of_vsphere_are_apart() -> None:
    config = parse_arguments(["--vsphere", "vc.example", "--vspc-allow", "10.0.0.0/8", "--vspc-allow", "::/0"])
    assert config.vsphere == VsphereConfig(vsphere="vc.example", vspc_allow=("10.0.0.0/8", "::/0"))
    assert parse_arguments([]).vsphere == VsphereConfig()


def test_required_settings() -> None:
    assert required(VsphereConfig(vsphere_user="vch"), "vsphere_user") == "vch"
    with pytest.raises(InvalidParameter, match="--hypervisor vsphere needs --vsphere-user"):
        required(VsphereConfig(), "vsphere_user")
