"""The NICs that the properties describe."""

import ipaddress

import pytest

from appliance.provision.interfaces import Interface, read_interfaces
from appliance.provision.reader import Reader


def test_roles_without_a_nic_are_on_the_public_network() -> None:
    values = {"interfaces": "bridge, public,management", "management-address": "10.9.0.2/16"}
    assert read_interfaces(Reader(values)) == (
        Interface(("bridge",)),
        Interface(("public", "client")),
        Interface(("management",), ipaddress.IPv4Interface("10.9.0.2/16")),
    )


def test_routes_and_the_gateway() -> None:
    values = {
        "interfaces": "public,bridge,client",
        "public-address": "192.0.2.10/24",
        "public-gateway": "192.0.2.1",
        "client-routes": "10.0.0.0/8=10.9.0.1",
    }
    public, _, client = read_interfaces(Reader(values))
    assert public.gateway == ipaddress.IPv4Address("192.0.2.1")
    assert client.routes == ((ipaddress.IPv4Network("10.0.0.0/8"), ipaddress.IPv4Address("10.9.0.1")),)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"interfaces": "public,bridge,moon"}, "interfaces: moon is not one of public, bridge, client, management"),
        ({"public-address": "10.0.0.1"}, "public-address: '10.0.0.1' is neither dhcp nor an address and prefix"),
        ({"public-gateway": "x"}, "public-gateway: Expected 4 octets"),
        ({"interfaces": "public,bridge,client", "client-routes": "10.0.0.0/8"}, "client-routes: "),
    ],
)
def test_malformed_values_are_problems(values: dict[str, str], problem: str) -> None:
    reader = Reader(values)
    read_interfaces(reader)
    assert len(reader.problems) == 1
    assert reader.problems[0].startswith(problem)
