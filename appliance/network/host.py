"""The host's side of networks: a bridge for each, its addresses, and the rules between them."""

import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import trio
from pyroute2 import IPRoute, NFCTSocket
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

from appliance.errors import Conflict, InvalidParameter, Unavailable
from appliance.network.addresses import Network, parse_subnet
from appliance.network.firewall import Nft, Publication, element, removal, rules
from appliance.network.network_record import NetworkRecord, Uplink

log = logging.getLogger(__name__)

_SYSCTL = Path("/proc/sys/net")


class Host(Protocol):
    """What networks need of the machine that they are on. Errors are Unavailable with the kernel's words."""

    bridged: bool
    # The bridge that all networks share; "" where each has its own.
    shared_bridge: str

    async def add(self, network: NetworkRecord, *, new: bool) -> None:
        """Make its bridge, or find it; with `new` a device of that name is somebody else's, and a Conflict."""

    async def find(self, network: NetworkRecord) -> None:
        """See that there is what an external network is to be on. InvalidParameter when there is not."""

    async def remove(self, network: NetworkRecord) -> None:
        """Remove its bridge, if it was made here."""

    async def sweep(self, networks: Iterable[NetworkRecord]) -> None:
        """Remove the bridges that were made here for none of these: somebody was killed on the way."""

    def set_rules(self, networks: Iterable[NetworkRecord], publications: Iterable[Publication]) -> None:
        """Make the rules anew: NAT, isolation, these published ports."""

    def publish(self, publications: Iterable[Publication]) -> None: ...
    def withdraw(self, publications: Iterable[Publication]) -> None: ...
    def routes(self) -> list[Network]:
        """The subnets that this host reaches already, whoever set them up."""

    async def clear(self, networks: Iterable[NetworkRecord]) -> None:
        """Take away all of it."""


class UserModeHost:
    """Without the right to make bridges: each machine has NAT of its own, and nothing of the host is changed."""

    bridged = False
    shared_bridge = ""

    async def add(self, network: NetworkRecord, *, new: bool) -> None: ...
    async def find(self, network: NetworkRecord) -> None: ...
    async def remove(self, network: NetworkRecord) -> None: ...
    async def sweep(self, networks: Iterable[NetworkRecord]) -> None: ...
    def set_rules(self, networks: Iterable[NetworkRecord], publications: Iterable[Publication]) -> None: ...
    def publish(self, publications: Iterable[Publication]) -> None: ...
    def withdraw(self, publications: Iterable[Publication]) -> None: ...
    def routes(self) -> list[Network]:
        return []

    async def clear(self, networks: Iterable[NetworkRecord]) -> None: ...


class BridgeHost:
    """`table` names the tables of nftables that are this daemon's."""

    bridged = True

    def __init__(self, table: str, uplink: Uplink | None = None) -> None:
        self._table = table
        self._uplink = uplink
        self.shared_bridge = uplink.bridge if uplink is not None else ""
        # What bridges that were made here are marked with: others, which `--bridge` may name, are used and left.
        self._alias = f"vch {table}"
        self._nft = Nft()
        _write("ipv4/ip_forward", "1")

    async def add(self, network: NetworkRecord, *, new: bool) -> None:
        await trio.to_thread.run_sync(_make_bridge, network, new, self._alias, self._uplink)

    async def find(self, network: NetworkRecord) -> None:
        if self._uplink is None:
            await trio.to_thread.run_sync(_find_bridge, network)

    async def remove(self, network: NetworkRecord) -> None:
        if network.bridge == self.shared_bridge:
            gone = _addresses(network)
            await trio.to_thread.run_sync(_remove_addresses, network.bridge, gone.__contains__)
        else:
            await trio.to_thread.run_sync(_remove_bridges, self._alias, network.bridge.__eq__)

    async def sweep(self, networks: Iterable[NetworkRecord]) -> None:
        networks = list(networks)
        known = {network.bridge for network in networks}
        await trio.to_thread.run_sync(_remove_bridges, self._alias, lambda name: name not in known)
        if self.shared_bridge:
            kept = {address for network in networks for address in _addresses(network)}
            await trio.to_thread.run_sync(_remove_addresses, self.shared_bridge, lambda address: address not in kept)

    def set_rules(self, networks: Iterable[NetworkRecord], publications: Iterable[Publication]) -> None:
        self._nft.run(rules(self._table, networks, publications, self._uplink))

    def publish(self, publications: Iterable[Publication]) -> None:
        publications = list(publications)
        self._run(publications, "add")
        for one in publications:
            if one.protocol == "udp":
                _forget_flows(one)

    def withdraw(self, publications: Iterable[Publication]) -> None:
        self._run(publications, "delete")

    def _run(self, publications: Iterable[Publication], verb: str) -> None:
        if text := "".join(element(verb, self._table, one) for one in publications):
            self._nft.run(text)

    def routes(self) -> list[Network]:
        with IPRoute() as netlink:
            found = []
            for family in (2, 10):
                for route in netlink.get_routes(family=family, table=254):
                    target = route.get_attr("RTA_DST")
                    if target is not None and route["dst_len"]:
                        found.append(ipaddress.ip_network(f"{target}/{route['dst_len']}", strict=False))
            return found

    async def clear(self, networks: Iterable[NetworkRecord]) -> None:
        with contextlib.suppress(Unavailable):
            self._nft.run(removal(self._table))
        for network in networks:
            with contextlib.suppress(Unavailable):
                await self.remove(network)
        if self.shared_bridge:
            with contextlib.suppress(Unavailable):
                await trio.to_thread.run_sync(_remove_bridges, self._alias, self.shared_bridge.__eq__)


def _forget_flows(to: Publication) -> None:
    """What flows to a UDP port finds its way anew: the kernel keeps to where it went before for as long as it flows."""
    family = socket.AF_INET6 if ":" in to.address else socket.AF_INET
    try:
        with NFCTSocket(family) as conntrack:
            flows = NFCTAttrTuple(family, proto=socket.IPPROTO_UDP, dport=to.host_port)
            for entry in list(conntrack.dump(tuple_orig=flows)):
                flow = NFCTAttrTuple.from_netlink(family, entry.get_attr("CTA_TUPLE_ORIG"))
                conntrack.entry("del", tuple_orig=flow)
    except (OSError, NetlinkError) as error:
        log.warning("flows to port %d/udp may go on to where they went: %s", to.host_port, error)


def _write(name: str, value: str) -> None:
    try:
        (_SYSCTL / name).write_text(value)
    except OSError as error:
        raise Unavailable(f"cannot set net/{name}: {error}") from error


def _addresses(network: NetworkRecord) -> set[str]:
    """What the bridge of a network has for it."""
    return {f"{pool.gateway}/{parse_subnet(pool.subnet).prefixlen}" for pool in network.used_pools}


def _remove_addresses(bridge: str, remove: Callable[[str], bool]) -> None:
    try:
        with IPRoute() as netlink:
            for index in netlink.link_lookup(ifname=bridge):
                for one in netlink.get_addr(index=index):
                    address, length = one.get_attr("IFA_ADDRESS"), one["prefixlen"]
                    if not address.startswith("fe80:") and remove(f"{address}/{length}"):
                        netlink.addr("del", index=index, address=address, prefixlen=length)
    except NetlinkError as error:
        raise Unavailable(f"addresses of bridge {bridge}: {error}") from error


def _find_bridge(network: NetworkRecord) -> None:
    with IPRoute() as netlink:
        found = netlink.link_lookup(ifname=network.bridge)
        if not found or _kind_of(netlink, found[0]) != "bridge":
            raise InvalidParameter(f"--container-network {network.name}: there is no bridge {network.bridge} here")


def _put_into(netlink: Any, uplink: Uplink, index: int) -> None:
    found = netlink.link_lookup(ifname=uplink.interface)
    if not found:
        raise Unavailable(f"--bridge-interface {uplink.interface}: there is no such network device")
    netlink.link("set", index=found[0], master=index, state="up")


def _make_bridge(network: NetworkRecord, new: bool, alias: str, uplink: Uplink | None) -> None:
    name = network.bridge
    try:
        with IPRoute() as netlink:
            found = netlink.link_lookup(ifname=name)
            if not found:
                # A bridge without an address of its own takes its ports', one after the other.
                netlink.link("add", ifname=name, kind="bridge", address="02:42:" + os.urandom(4).hex(":"))
                found = netlink.link_lookup(ifname=name)
                netlink.link("set", index=found[0], ifalias=alias)
            elif new and uplink is None:
                raise Conflict(f"bridge name {name} is that of a network device of the host")
            elif _kind_of(netlink, found[0]) != "bridge":
                raise Conflict(f"network device {name} is no bridge")
            index = found[0]
            have = {f"{one.get_attr('IFA_ADDRESS')}/{one['prefixlen']}" for one in netlink.get_addr(index=index)}
            for pool in network.used_pools:
                subnet = parse_subnet(pool.subnet)
                if subnet.version == 6:
                    _write(f"ipv6/conf/{name}/disable_ipv6", "0")
                    _write(f"ipv6/conf/{name}/accept_dad", "0")
                    _write("ipv6/conf/all/forwarding", "1")
                if f"{pool.gateway}/{subnet.prefixlen}" not in have:
                    netlink.addr("add", index=index, address=pool.gateway, prefixlen=subnet.prefixlen)
            if network.mtu:
                netlink.link("set", index=index, mtu=network.mtu)
            netlink.link("set", index=index, state="up")
            if uplink is not None:
                _put_into(netlink, uplink, index)
            _write(f"ipv4/conf/{name}/route_localnet", "1")
    except NetlinkError as error:
        raise Unavailable(f"bridge {name} of network {network.name}: {error}") from error


def _kind_of(netlink: Any, index: int) -> str | None:
    (link,) = netlink.get_links(index)
    kind: str | None = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")
    return kind


def _remove_bridges(alias: str, remove: Callable[[str], bool]) -> None:
    """Those that were made here and whose name is one to be removed."""
    try:
        with IPRoute() as netlink:
            for link in netlink.get_links():
                if link.get_attr("IFLA_IFALIAS") == alias and remove(link.get_attr("IFLA_IFNAME")):
                    netlink.link("del", index=link["index"])
    except NetlinkError as error:
        raise Unavailable(f"a bridge cannot be removed: {error}") from error


def may_make_bridges() -> bool:
    """Whether this process has CAP_NET_ADMIN (capabilities(7)) and can make taps."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 12 & 1) and os.access("/dev/net/tun", os.R_OK | os.W_OK)
    return False
