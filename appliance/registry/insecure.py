"""Which registries are used without TLS, or with any certificate."""

import contextlib
import ipaddress
from collections.abc import Iterable, Iterator, Sequence


def is_insecure(host: str, insecure_registries: Sequence[str]) -> bool:
    """Docker's rule: loopback registries, and those that the settings name, by host or by subnet."""
    name = host.rpartition(":")[0] or host
    if name == "localhost" or host in insecure_registries:
        return True
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return address.is_loopback or any(address in subnet for subnet in _subnets(insecure_registries))


def _subnets(texts: Iterable[str]) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for text in texts:
        with contextlib.suppress(ValueError):
            if "/" in text:
                yield ipaddress.ip_network(text, strict=False)
