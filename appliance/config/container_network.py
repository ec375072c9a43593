"""Container networks (`--container-network`): networks that exist outside vch, and that containers may join."""

import ipaddress
import re
from dataclasses import dataclass

from appliance.config.parsers import ends_of
from appliance.errors import InvalidParameter

LEVELS = ("closed", "outbound", "peers", "published", "open")
_KEYS = ("name", "portgroup", "bridge", "subnet", "gateway", "range", "dns", "firewall")


@dataclass(frozen=True, slots=True)
class ContainerNetwork:
    """A network that also has members outside vch. `place` is its portgroup, or its bridge on this host.

    Containers get addresses from `range` of `subnet` (default: the whole subnet), or from DHCP when `subnet` is empty.
    `firewall` is one of LEVELS.
    """

    name: str
    place: str
    subnet: str = ""
    gateway: str = ""
    range: str = ""
    dns: tuple[str, ...] = ()
    firewall: str = "published"


def parse_container_network(text: str) -> ContainerNetwork:
    """A container network from its text, KEY=VALUE pairs with commas between. InvalidParameter when it is malformed.

    For example name=lan,portgroup=LAN,subnet=192.0.2.0/24,gateway=192.0.2.1,range=192.0.2.64-192.0.2.95,dns=192.0.2.1,firewall=open.
    """
    try:
        return _network(_pairs(text))
    except ValueError as error:
        raise InvalidParameter(f"{text}: {error}") from error


def _pairs(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not value or key not in _KEYS:
            raise ValueError(f"{part!r} is not one of {', '.join(f'{name}=...' for name in _KEYS)}")
        if key in found and key != "dns":
            raise ValueError(f"{key} is given twice")
        found.setdefault(key, []).append(value)
    return found


def _network(found: dict[str, list[str]]) -> ContainerNetwork:
    single = {key: values[0] for key, values in found.items()}
    places = [single[key] for key in ("portgroup", "bridge") if key in single]
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", single.get("name", "")) or len(places) != 1:
        raise ValueError("name=NAME and portgroup=PORTGROUP (or bridge=BRIDGE, a bridge of this host) are required")
    level = single.get("firewall", "published")
    if level not in LEVELS:
        raise ValueError(f"firewall={level} is not one of {', '.join(LEVELS)}")
    if "subnet" not in single and (wanting := [key for key in ("gateway", "range") if key in single]):
        raise ValueError(f"{wanting[0]} needs subnet")
    if level == "peers" and "subnet" not in single:
        raise ValueError("firewall=peers needs subnet: with DHCP the addresses of the peers are not known")
    if "subnet" in single:
        _check_subnet(single["subnet"], single.get("range", ""), found.get("gateway", []))
    dns = tuple(str(ipaddress.ip_address(server)) for server in found.get("dns", ()))
    return ContainerNetwork(
        single["name"],
        places[0],
        single.get("subnet", ""),
        single.get("gateway", ""),
        single.get("range", ""),
        dns,
        level,
    )


def _check_subnet(subnet_text: str, range_text: str, gateway_texts: list[str]) -> None:
    subnet = ipaddress.IPv4Network(subnet_text)
    ends = [ipaddress.IPv4Address(end) for end in ends_of(range_text or str(subnet))]
    gateways = [ipaddress.IPv4Address(text) for text in gateway_texts]
    if outside := [address for address in (*ends, *gateways) if address not in subnet]:
        raise ValueError(f"{outside[0]} is not in {subnet}")
    if ends[0] > ends[-1]:
        raise ValueError(f"range={range_text} is empty")
