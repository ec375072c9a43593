"""Addresses of the default network."""

import ipaddress
from dataclasses import dataclass

from appliance.errors import InvalidParameter, Unavailable
from appliance.hypervisor import Card


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One container's place: what its card, its tether and `inspect` need."""

    address: str
    prefix: int
    mac: str
    gateway: str
    dns: str
    network: str

    @property
    def card(self) -> Card:
        return Card(self.mac, self.network, self.gateway, self.dns)


class DefaultNetwork:
    """`bridge`: addresses are handed out round robin, so that a dead container's is not reused at once."""

    def __init__(self, bip: str) -> None:
        try:
            interface = ipaddress.IPv4Interface(bip)
        except ValueError as error:
            raise InvalidParameter(f"invalid --bip {bip}: {error}") from error
        if interface.network.prefixlen > 28:
            raise InvalidParameter(f"invalid --bip {bip}: too few addresses")
        self.network = interface.network
        self.gateway = interface.ip
        # User-mode networking answers DNS on an address of its own: the last one.
        self.dns = self.network.broadcast_address - 1
        self._used: set[int] = set()
        self._next = int(self.gateway) + 1

    def take(self) -> Endpoint:
        first, last = int(self.network.network_address) + 1, int(self.dns) - 2
        for _ in range(first, last + 1):
            candidate = self._next
            self._next = first if candidate >= last else candidate + 1
            if candidate not in self._used and candidate != int(self.gateway) and first <= candidate <= last:
                self._used.add(candidate)
                return self._endpoint(candidate)
        raise Unavailable("no available IPv4 addresses on this network's address pools: bridge")

    def _endpoint(self, number: int) -> Endpoint:
        address = ipaddress.IPv4Address(number)
        mac = "02:42:" + ":".join(f"{octet:02x}" for octet in address.packed)
        return Endpoint(str(address), self.network.prefixlen, mac, str(self.gateway), str(self.dns), str(self.network))

    @property
    def blank(self) -> Endpoint:
        """A place on this network that is nobody's: the one before its DNS server's."""
        return self._endpoint(int(self.dns) - 1)

    def retake(self, address: str) -> Endpoint:
        """The endpoint of a container that was found running."""
        number = int(ipaddress.IPv4Address(address))
        self._used.add(number)
        return self._endpoint(number)

    def release(self, address: str) -> None:
        self._used.discard(int(ipaddress.IPv4Address(address)))
