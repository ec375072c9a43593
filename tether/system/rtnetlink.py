"""Links, addresses and routes by rtnetlink(7), as much as a guest needs. pyroute2 would cost a guest 0.3 s to import."""

import errno
import ipaddress
import socket
import struct
from typing import NamedTuple

from tether.system.netlink import NLM_F_CREATE, NLM_F_REPLACE, NetlinkSocket, attribute, attributes

_NETLINK_ROUTE = 0
_SET = NLM_F_CREATE | NLM_F_REPLACE
_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_NEWROUTE = 16, 18, 20, 21, 24
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_NET_NS_FD, _IFLA_EXT_MASK, _IFLA_PARENT_DEV_NAME = 1, 3, 4, 28, 29, 56
# RTEXT_FILTER_SKIP_STATS.
_WITHOUT_STATISTICS = 8
_LINK = struct.Struct("BxHiII")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFA_F_NODAD = 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_IFF_UP = 1


def _link(flags: int, attributes: bytes, index: int) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, _IFF_UP) + attributes


class Link(NamedTuple):
    """`number` is its index. `mac` is "02:42:ac:11:00:02", empty for a link without an address. `device` is the bus's name of a NIC, such
    as "virtio0"; empty for a virtual link.
    """

    number: int
    name: str
    mac: str
    device: str


class Rtnetlink:
    """One rtnetlink socket. Every call raises OSError with the kernel's errno."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(_NETLINK_ROUTE)

    def __enter__(self) -> "Rtnetlink":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def set_link(
        self, index: int, *, up: bool = True, name: str | None = None, mac: str | None = None, mtu: int = 0
    ) -> None:
        """Change a link. The caller has to set it down first when the name changes, or the address of a physical NIC."""
        attributes = b""
        if name is not None:
            attributes += attribute(_IFLA_IFNAME, name.encode() + b"\0")
        if mac is not None:
            attributes += attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
        if mtu:
            attributes += attribute(_IFLA_MTU, struct.pack("I", mtu))
        self._socket.request(_RTM_NEWLINK, _link(_IFF_UP if up else 0, attributes, index), subject=name or str(index))

    def links(self) -> list[Link]:
        """Return the links of the socket's network namespace, in the order in which the kernel found them."""
        mask = attribute(_IFLA_EXT_MASK, struct.pack("I", _WITHOUT_STATISTICS))
        found = []
        for message in self._socket.dump(_RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + mask):
            values = attributes(message[_LINK.size :])
            name, device = (
                values.get(kind, b"").rstrip(b"\0").decode() for kind in (_IFLA_IFNAME, _IFLA_PARENT_DEV_NAME)
            )
            found.append(Link(_LINK.unpack_from(message)[2], name, values.get(_IFLA_ADDRESS, b"").hex(":"), device))
        return sorted(found)

    def move_link(self, index: int, namespace: int) -> None:
        """Move a link to another network namespace, a descriptor. The kernel sets it down, and removes its addresses and routes."""
        self._socket.request(
            _RTM_NEWLINK,
            _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute(_IFLA_NET_NS_FD, struct.pack("i", namespace)),
            subject=str(index),
        )

    def add_address(self, index: int, cidr: str) -> None:
        """Add an address such as "172.17.0.2/16", or replace it."""
        self._socket.request(_RTM_NEWADDR, self._address(index, cidr), flags=_SET, subject=cidr)

    def remove_address(self, index: int, cidr: str) -> None:
        """Remove an address, if the link has it."""
        try:
            self._socket.request(_RTM_DELADDR, self._address(index, cidr), subject=cidr)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise

    @staticmethod
    def _address(index: int, cidr: str) -> bytes:
        interface = ipaddress.ip_interface(cidr)
        family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
        # The appliance assigns each address once, so the kernel's duplicate detection would only cost a second.
        flags = _IFA_F_NODAD if interface.version == 6 else 0
        body = struct.pack("BBBBi", family, interface.network.prefixlen, flags, 0, index)
        body += attribute(_IFA_LOCAL, interface.packed) + attribute(_IFA_ADDRESS, interface.packed)
        if interface.version == 4:
            body += attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
        return body

    def add_route(self, index: int, destination: str, gateway: str) -> None:
        """Add a route, or replace it. An empty `destination` is the default route, an empty `gateway` means on the link."""
        via = ipaddress.ip_address(gateway) if gateway else None
        network = ipaddress.ip_network(destination or ("::/0" if via is not None and via.version == 6 else "0.0.0.0/0"))
        family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        scope = 0 if via else 253  # universe, link
        body = struct.pack("BBBBBBBBI", family, network.prefixlen, 0, 0, 254, 3, scope, 1, 0)
        if network.prefixlen:
            body += attribute(_RTA_DST, network.network_address.packed)
        if via is not None:
            body += attribute(_RTA_GATEWAY, via.packed)
        body += attribute(_RTA_OIF, struct.pack("i", index))
        self._socket.request(_RTM_NEWROUTE, body, flags=_SET, subject=destination or "default")


def nics() -> list[tuple[int, str, str]]:
    """Return (index, name, MAC) of each NIC that is a device, in the order in which the kernel found them.

    By rtnetlink, because sysfs shows the network namespace in which it was mounted. Needs Linux 5.14.
    """
    with Rtnetlink() as rtnetlink:
        return [(link.number, link.name, link.mac) for link in rtnetlink.links() if link.device]


def loopback_up() -> None:
    with Rtnetlink() as rtnetlink:
        rtnetlink.set_link(socket.if_nametoindex("lo"))
