"""The NICs of the appliance, from the OVF properties: their roles, addresses and routes."""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from appliance.config.appliance import ROLES
from appliance.provision.reader import Reader

Route = tuple[ipaddress.IPv4Network, ipaddress.IPv4Address]


@dataclass(frozen=True, slots=True)
class Interface:
    """A NIC and the roles of its network. `address` is None when DHCP assigns it; a route is a subnet and its gateway."""

    roles: tuple[str, ...]
    address: ipaddress.IPv4Interface | None = None
    gateway: ipaddress.IPv4Address | None = None
    routes: tuple[Route, ...] = ()


def read_interfaces(reader: Reader) -> tuple[Interface, ...]:
    """The NICs in the order of the property `interfaces`; none when the property is malformed."""
    names = reader.items("interfaces", str)
    if unknown := sorted(set(names) - set(ROLES)):
        reader.problems.append(f"interfaces: {', '.join(unknown)} is not one of {', '.join(ROLES)}")
    elif len(set(names)) != len(names):
        reader.problems.append("interfaces: a network is named twice")
    elif missing := [name for name in ROLES[:2] if name not in names]:
        reader.problems.append(f"interfaces: {', '.join(missing)} is missing")
    else:
        return tuple(_interface(reader, name, names) for name in names)
    return ()


def _interface(reader: Reader, name: str, names: Collection[str]) -> Interface:
    if name == "bridge":
        # vchd sets the addresses of its bridge.
        return Interface((name,))
    address = reader.read(f"{name}-address", _address, None)
    if name != "public":
        return Interface((name,), address, None, tuple(reader.items(f"{name}-routes", _route)))
    roles = (name, *(other for other in ROLES[2:] if other not in names))
    gateway = reader.read("public-gateway", _gateway, None)
    if address is not None and gateway is not None and gateway not in address.network:
        reader.problems.append(f"public-gateway: {gateway} is not in {address.network}")
    return Interface(roles, address, gateway)


def _address(text: str) -> ipaddress.IPv4Interface | None:
    if text.lower() == "dhcp":
        return None
    if "/" not in text:
        raise ValueError(f"{text!r} is neither dhcp nor an address and prefix, for example 192.0.2.10/24")
    return ipaddress.IPv4Interface(text)


def _gateway(text: str) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv4Address(text) if text else None


def _route(text: str) -> Route:
    subnet, _, gateway = text.partition("=")
    return ipaddress.IPv4Network(subnet), ipaddress.IPv4Address(gateway)
