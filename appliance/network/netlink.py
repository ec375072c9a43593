"""Links, addresses, routes and flows of this host's kernel (rtnetlink(7), conntrack). The only file that reads netlink answers."""

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute, NFCTSocket
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

from appliance.network.addresses import Network

__all__ = ["Link", "Netlink", "NetlinkError", "forget_udp_flows"]

# RT_TABLE_MAIN of linux/rtnetlink.h.
_MAIN_TABLE = 254


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. `kind` is rtnetlink's, such as "bridge"; "" for hardware. `alias` is free text (ip-link(8))."""

    index: int
    name: str
    kind: str
    alias: str


class Netlink:
    """One socket. Methods block and raise NetlinkError."""

    def __init__(self, route: Any) -> None:
        self._route = route

    @classmethod
    @contextmanager
    def open(cls) -> Iterator["Netlink"]:
        """A socket for the length of the block."""
        with IPRoute() as route:
            yield cls(route)

    def links(self) -> list[Link]:
        """All network devices."""
        return [_link(message) for message in self._route.get_links()]

    def find_link(self, name: str) -> Link | None:
        """The device of this name."""
        for index in self._route.link_lookup(ifname=name):
            (message,) = self._route.get_links(index)
            return _link(message)
        return None

    def add_bridge(self, name: str, mac: str, alias: str) -> Link:
        """Create a bridge."""
        self._route.link("add", ifname=name, kind="bridge", address=mac)
        (index,) = self._route.link_lookup(ifname=name)
        self._route.link("set", index=index, ifalias=alias)
        return Link(index, name, "bridge", alias)

    def set_up(self, link: Link) -> None:
        """Switch a device on."""
        self._route.link("set", index=link.index, state="up")

    def set_mtu(self, link: Link, mtu: int) -> None:
        """Change the largest packet that a device sends."""
        self._route.link("set", index=link.index, mtu=mtu)

    def add_port(self, bridge: Link, port: Link) -> None:
        """Make a device a port of a bridge, and switch it on."""
        self._route.link("set", index=port.index, master=bridge.index, state="up")

    def remove_link(self, link: Link) -> None:
        """Remove a device."""
        self._route.link("del", index=link.index)

    def addresses(self, link: Link) -> list[str]:
        """The addresses of a device, each as address/prefix length."""
        return [
            f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
            for message in self._route.get_addr(index=link.index)
        ]

    def add_address(self, link: Link, address: str) -> None:
        """Give a device an address, written as address/prefix length."""
        self._route.addr("add", index=link.index, **_split(address))

    def remove_address(self, link: Link, address: str) -> None:
        """Take an address from a device, written as address/prefix length."""
        self._route.addr("del", index=link.index, **_split(address))

    def routes(self) -> list[Network]:
        """The subnets of the main routing table, without the default routes."""
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in self._route.get_routes(family=family, table=_MAIN_TABLE):
                target, length = message.get_attr("RTA_DST"), message["dst_len"]
                if target is not None and length:
                    found.append(ipaddress.ip_network(f"{target}/{length}", strict=False))
        return found


def _link(message: Any) -> Link:
    return Link(
        message["index"],
        message.get_attr("IFLA_IFNAME"),
        message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
        message.get_attr("IFLA_IFALIAS") or "",
    )


def _split(address: str) -> dict[str, str | int]:
    text, _, length = address.partition("/")
    return {"address": text, "prefixlen": int(length)}


def forget_udp_flows(port: int, *, ipv6: bool) -> None:
    """Remove the conntrack entries of all UDP flows to a port of this host. NetlinkError or OSError."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    with NFCTSocket(family) as conntrack:
        flows = NFCTAttrTuple(family, proto=socket.IPPROTO_UDP, dport=port)
        for entry in list(conntrack.dump(tuple_orig=flows)):
            flow = NFCTAttrTuple.from_netlink(family, entry.get_attr("CTA_TUPLE_ORIG"))
            conntrack.entry("del", tuple_orig=flow)
