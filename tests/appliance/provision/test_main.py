"""`vch-provision`: NICs, secrets and certificates from one boot to the next."""

from pathlib import Path

import pytest

from appliance.errors import InvalidParameter
from appliance.provision.environment import Environment, parse
from appliance.provision.main import fingerprint, nics_of, provision, with_kept_secrets
from appliance.provision.properties import settings_of
from appliance.provision.reader import Malformed
from tests.appliance.provision.values import LEAST, NICS


def test_nics_are_in_the_order_of_vcenter() -> None:
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
    settings = settings_of(LEAST)
    assert [nic.name for nic in nics_of(settings, environment.nics, NICS)] == ["ens224", "ens192"]
    assert [nic.name for nic in nics_of(settings, (), NICS)] == ["ens192", "ens224"]
    with pytest.raises(Malformed, match="2 networks are named, but there are 1 NICs"):
        nics_of(settings, (), NICS[:1])


def test_secrets_outlive_their_properties(tmp_path: Path) -> None:
    kept = tmp_path / "kept/secrets.json"
    assert with_kept_secrets(LEAST, kept)["vsphere-password"] == "very s3cret"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert with_kept_secrets({**LEAST, "vsphere-password": ""}, kept)["vsphere-password"] == "very s3cret"
    assert with_kept_secrets({**LEAST, "vsphere-password": "new"}, kept)["vsphere-password"] == "new"
    assert with_kept_secrets({}, kept)["vsphere-password"] == "new"
    kept.write_text("{")
    with pytest.raises(InvalidParameter, match=r"secrets\.json"):
        with_kept_secrets({}, kept)


def test_an_appliance_signs_its_certificate_once(tmp_path: Path) -> None:
    environment = Environment({**LEAST, "public-address": "192.0.2.10/24", "tls-verify": "false"}, ())
    provision(environment, tmp_path, NICS)
    first = (tmp_path / "run/appliance/cert.pem").read_text()
    provision(environment, tmp_path, NICS)
    assert (tmp_path / "run/appliance/cert.pem").read_text() == first
    assert fingerprint(first) in (tmp_path / "run/issue.d/vch.issue").read_text()
    # Another address, another certificate.
    provision(Environment({**LEAST, "public-address": "192.0.2.11/24"}, ()), tmp_path, NICS)
    assert (tmp_path / "run/appliance/cert.pem").read_text() != first
