"""Address pools: the subnets that networks get, and the addresses of a subnet that containers get."""

import ipaddress
from collections.abc import Iterable, Iterator

from appliance.errors import Forbidden, InvalidParameter, Unavailable
from appliance.network.network_record import Address, Pool

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LOCAL_POOLS = (
    *(f"172.{second}.0.0/16" for second in range(17, 32)),
    *(f"192.168.{third}.0/20" for third in range(0, 256, 16)),
)


def default_pools() -> Iterator[Network]:
    """Docker's default address pools, in its order."""
    return map(ipaddress.ip_network, _LOCAL_POOLS)


def pick_subnet(pools: Iterable[Network], taken: Iterable[Network]) -> Network:
    """The first pool that overlaps with no taken subnet. InvalidParameter when there is none."""
    used = [network for network in taken if network.version == 4]
    for candidate in pools:
        if not any(candidate.overlaps(network) for network in used):
            return candidate
    raise InvalidParameter("all predefined address pools have been fully subnetted")


def pick_local_subnet6(network_id: str) -> Network:
    """A unique local /64 (RFC 4193), made from the id of a network."""
    return ipaddress.IPv6Network((0xFD << 120 | int(network_id[:14], 16) << 64, 64))


def mac_of(address: str) -> str:
    """Docker's default MAC address: locally administered, the rest from the IPv4 address."""
    return "02:42:" + ":".join(f"{octet:02x}" for octet in ipaddress.ip_address(address).packed[-4:])


class Subnet:
    """The addresses of one pool. They are given round robin: the address of a removed container is not reused at once."""

    def __init__(self, pool: Pool, label: str, reserved: Iterable[str] = (), *, external: bool = False) -> None:
        """`label` names the network in errors. InvalidParameter when the pool is malformed."""
        self.network = parse_subnet(pool.subnet)
        first, last = self._part(pool.ip_range) if pool.ip_range else _ends(self.network)
        if self.network.prefixlen <= self.network.max_prefixlen - 2:
            # The network address and the broadcast address are not for containers.
            first = max(first, int(self.network.network_address) + 1)
            if self.network.version == 4:
                last = min(last, int(self.network.broadcast_address) - 1)
        self._first, self._last = first, last
        self._label = label
        gateway = pool.gateway or str(self.network[1] if self.network.num_addresses > 1 else self.network[0])
        # An external network may have no gateway.
        self.gateway = str(self._inside(gateway, "gateway")) if pool.gateway or not external else ""
        self._used = {int(self._inside(address, "auxiliary address")) for address in pool.aux.values()}
        self._used |= {int(self._inside(address, "address")) for address in (self.gateway, *reserved) if address}
        self._next = first

    def _part(self, text: str) -> tuple[int, int]:
        """The first and the last address of a range. The text is a subnet or FIRST-LAST."""
        if "-" in text:
            try:
                first, last = (ipaddress.ip_address(end) for end in text.split("-"))
            except ValueError as error:
                raise InvalidParameter(f"invalid ip-range {text}") from error
            return int(self._inside(str(first), "ip-range")), int(self._inside(str(last), "ip-range"))
        part = parse_subnet(text)
        if part.version != self.network.version or not part.subnet_of(self.network):  # type: ignore[arg-type]
            raise InvalidParameter(f"invalid ip-range {part}: it is not part of subnet {self.network}")
        return _ends(part)

    def _inside(self, text: str, what: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise InvalidParameter(f"invalid {what}: {text}") from error
        if address not in self.network:
            raise InvalidParameter(f"no matching subnet for {what} {text}")
        return address

    def __contains__(self, text: str) -> bool:
        return ipaddress.ip_address(text) in self.network

    def take(self, wanted: str = "") -> Address:
        """A free address, or the wanted one. Forbidden when the wanted one is taken, Unavailable when no address is free."""
        if wanted:
            number = int(self._inside(wanted, "address"))
            if number in self._used:
                raise Forbidden("Address already in use")
            return self._take(number)
        size = self._last - self._first + 1
        for _ in range(min(size, len(self._used) + 1)):
            candidate = self._next
            self._next = self._first if candidate >= self._last else candidate + 1
            if candidate not in self._used:
                return self._take(candidate)
        raise Unavailable(
            f"no available IPv{self.network.version} addresses on this network's address pools: {self._label}"
        )

    def _take(self, number: int) -> Address:
        self._used.add(number)
        return self._shape(number)

    def _shape(self, number: int) -> Address:
        kind = ipaddress.IPv4Address if self.network.version == 4 else ipaddress.IPv6Address
        return Address(str(kind(number)), self.network.prefixlen, self.gateway)

    def retake(self, address: str) -> Address:
        """Take the address of a container that runs since before this daemon started."""
        return self._take(int(ipaddress.ip_address(address)))

    def release(self, address: str) -> None:
        """Make an address free again."""
        self._used.discard(int(ipaddress.ip_address(address)))

    @property
    def blank(self) -> Address:
        """An address for VMs that rehearse without a network peer. Several VMs may have it at the same time."""
        return self._shape(self._last)


def _ends(network: Network) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)


def parse_subnet(text: str) -> Network:
    """A subnet from its CIDR text. InvalidParameter, with Docker's text, when it is malformed."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidParameter(f"invalid subnet {text}: invalid CIDR block notation") from error
