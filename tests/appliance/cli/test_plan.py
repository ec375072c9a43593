"""What is wrong with the options of `vch create`, and the properties that they become."""

import argparse
from pathlib import Path

import pytest

from appliance.cli.plan import as_option, authority_of, check_options, client_address, networks_of, values_of
from appliance.hypervisor.vsphere.preflight import Places
from tests.appliance.cli.fakes import SERVER, parse

_GOOD = ("--bridge-network", "Containers", "--public-network", "LAN", "--public-address", "192.0.2.10/24")


def _options(tmp_path: Path, *words: str) -> argparse.Namespace:
    options = parse("create", "--ova", "x", "--name", "prod", "--cert-path", str(tmp_path / "certificates"), *words)
    options.tenant = options.tenant or options.name
    return options


def test_good_options_have_no_findings(tmp_path: Path) -> None:
    assert check_options(_options(tmp_path, *_GOOD)) == []


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (("--name", "not good", "--tenant", "prod"), "--name"),
        (("--tenant", "x" * 32), "--tenant"),
        (("--bridge-network", ""), "--bridge-network"),
        (("--client-address", "10.0.0.1/24"), "--client-address"),
        (("--endpoint-cpu", "0"), "--endpoint-cpu"),
        (("--endpoint-memory", "512"), "--endpoint-memory"),
        (("--tls-server-cert", __file__), "--tls-server-cert"),
        (("--registry-ca", "/nowhere"), "--registry-ca"),
        (("--no-tlsverify", "--tls-ca", __file__), "--no-tlsverify"),
        (("--public-address", ""), "--tls-cname"),
        (("--ops-extension", "--ops-user", "x"), "--ops-extension"),
        (("--ops-grant-perms",), "--ops-grant-perms"),
        (("--volume-store", "x=nfs://server"), "--volume-store"),
        (("--vm-names", "{moon}"), "--container-name-convention"),
    ],
)
def test_each_problem_names_its_option(tmp_path: Path, words: tuple[str, ...], setting: str) -> None:
    (finding,) = check_options(_options(tmp_path, *_GOOD, *words))
    assert finding.setting == setting
    assert finding.text


def test_a_broken_ca_is_a_problem(tmp_path: Path) -> None:
    options = _options(tmp_path, *_GOOD)
    options.cert_path.mkdir()
    (options.cert_path / "ca.pem").write_text("x")
    assert [finding.setting for finding in check_options(options)] == ["--cert-path"]


def test_no_ca_is_needed_when_all_certificates_are_given(tmp_path: Path) -> None:
    words = ("--tls-ca", "a", "--tls-server-cert", "b", "--tls-server-key", "c")
    assert authority_of(_options(tmp_path, *_GOOD, *words), only_look=False) is None
    assert authority_of(_options(tmp_path, *_GOOD), only_look=True) is None
    assert not (tmp_path / "certificates").exists()
    made = authority_of(_options(tmp_path, *_GOOD), only_look=False)
    assert made is not None
    assert not made.found


def test_networks_and_the_address_of_clients(tmp_path: Path) -> None:
    shared = _options(tmp_path, *_GOOD, "--client-network", "LAN")
    assert networks_of(shared) == {"public": "LAN", "bridge": "Containers"}
    assert client_address(shared) == "192.0.2.10"
    own = _options(tmp_path, *_GOOD, "--client-network", "Office", "--client-address", "dhcp")
    assert networks_of(own) == {"public": "LAN", "bridge": "Containers", "client": "Office"}
    assert client_address(own) == ""


def test_properties(tmp_path: Path) -> None:
    places = Places(datacenter_name="DC0", compute_name="Cluster", datastore_name="SSD")
    options = _options(tmp_path, *_GOOD, "--container-memory", "512", "--management-network", "Hosts")
    assert values_of(options, SERVER, places) == {
        "vsphere": "vc.example:443",
        "vsphere-user": "admin",
        "thumbprint": "AB:CD",
        "tenant": "prod",
        "datacenter": "DC0",
        "compute-resource": "Cluster/prod",
        "image-store": "SSD",
        "bridge-network": "Containers",
        "interfaces": "public,bridge,management",
        "tls-verify": "true",
        "public-address": "192.0.2.10/24",
        "vm-memory": "512",
    }
    extension = values_of(_options(tmp_path, *_GOOD, "--ops-extension", "--no-tlsverify"), SERVER, places)
    assert (extension["vsphere-login"], extension["tls-verify"]) == ("extension", "false")
    assert "vsphere-user" not in extension


def test_a_problem_of_a_property_names_the_option() -> None:
    assert as_option("vm-pool: 'x' is malformed: really").setting == "--container-pool"
    assert as_option("vm-pool: 'x' is malformed: really").text == "'x' is malformed: really"
    assert as_option("interfaces: x").setting == "--interfaces"
