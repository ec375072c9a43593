"""The host's side of networks: bridges, their addresses, and the firewall between them."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import trio

from appliance.errors import Conflict, InvalidParameter, Unavailable
from appliance.network.addresses import Network, parse_subnet
from appliance.network.firewall import Nft, Publication, element, frame_removal, frame_rules, removal, rules
from appliance.network.interface_settings import refuse_routes_of_guests, write_sysctl
from appliance.network.netlink import Link, Netlink, NetlinkError, forget_udp_flows
from appliance.network.network_record import NetworkRecord, Uplink

log = logging.getLogger(__name__)


class HostNetwork(Protocol):
    """What Docker's networks need of the host. Errors are Unavailable, with the kernel's words."""

    bridged: bool
    # The bridge that all networks share; "" where each network has its own.
    shared_bridge: str

    async def add(self, network: NetworkRecord, *, new: bool) -> None:
        """Create the network's bridge, or find it. Conflict when the network is `new` and a device has that name."""

    async def find(self, network: NetworkRecord) -> None:
        """Check that the bridge of an external network exists. InvalidParameter when it does not."""

    async def remove(self, network: NetworkRecord) -> None:
        """Remove the network's bridge, if vchd has created it."""

    async def sweep(self, networks: Iterable[NetworkRecord]) -> None:
        """Remove bridges that vchd has created for other networks than these: leftovers of a killed vchd."""

    def set_rules(self, networks: Iterable[NetworkRecord], publications: Iterable[Publication]) -> None:
        """Replace all rules: NAT, isolation, published ports."""

    def publish(self, publications: Iterable[Publication]) -> None:
        """Add published ports to the rules."""

    def withdraw(self, publications: Iterable[Publication]) -> None:
        """Remove published ports from the rules."""

    def routes(self) -> list[Network]:
        """The subnets that this host has routes to, from whatever source."""

    async def clear(self, networks: Iterable[NetworkRecord]) -> None:
        """Remove all rules and bridges."""


class UserModeHostNetwork:
    """For a vchd without the right to create bridges: each VM has its own NAT, and the host is not changed."""

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
        """See HostNetwork."""
        return []

    async def clear(self, networks: Iterable[NetworkRecord]) -> None: ...


class BridgedHostNetwork:
    """A bridge per network, or one bridge for all of them where VMs are on other hosts (`uplink`).

    `table` names this daemon's nftables tables. The alias of a bridge says that vchd has created it. Other bridges
    (`--bridge`) are used, and never removed.
    """

    bridged = True

    def __init__(self, table: str, uplink: Uplink | None = None) -> None:
        self._table = table
        self._uplink = uplink
        self.shared_bridge = uplink.bridge if uplink is not None else ""
        self._alias = f"vch {table}"
        self._nft = Nft()
        self._filters_frames = True
        _write_sysctl("ipv4/ip_forward", "1")

    async def add(self, network: NetworkRecord, *, new: bool) -> None:
        """See HostNetwork."""
        await trio.to_thread.run_sync(_add_bridge, network, new, self._alias, self._uplink)

    async def find(self, network: NetworkRecord) -> None:
        """See HostNetwork."""
        if self._uplink is None:
            await trio.to_thread.run_sync(_find_bridge, network)

    async def remove(self, network: NetworkRecord) -> None:
        """See HostNetwork."""
        if network.bridge == self.shared_bridge:
            gone = _addresses(network)
            await trio.to_thread.run_sync(_remove_addresses, network.bridge, gone.__contains__)
        else:
            await trio.to_thread.run_sync(_remove_bridges, self._alias, network.bridge.__eq__)

    async def sweep(self, networks: Iterable[NetworkRecord]) -> None:
        """See HostNetwork."""
        networks = list(networks)
        known = {network.bridge for network in networks}
        await trio.to_thread.run_sync(_remove_bridges, self._alias, lambda name: name not in known)
        if self.shared_bridge:
            kept = {address for network in networks for address in _addresses(network)}
            await trio.to_thread.run_sync(_remove_addresses, self.shared_bridge, lambda address: address not in kept)

    def set_rules(self, networks: Iterable[NetworkRecord], publications: Iterable[Publication]) -> None:
        """See HostNetwork."""
        networks = list(networks)
        self._nft.run(rules(self._table, networks, publications, self._uplink))
        if self._filters_frames:
            try:
                self._nft.run(frame_rules(self._table, networks))
            except Unavailable as error:
                # A kernel without CONFIG_NF_TABLES_BRIDGE. The host itself is protected by the other tables.
                self._filters_frames = False
                log.warning("router advertisements of a container reach other containers of its network: %s", error)

    def publish(self, publications: Iterable[Publication]) -> None:
        """See HostNetwork."""
        publications = list(publications)
        self._run("add", publications)
        for publication in publications:
            if publication.protocol == "udp":
                _redirect_flows(publication)

    def withdraw(self, publications: Iterable[Publication]) -> None:
        """See HostNetwork."""
        self._run("delete", publications)

    def _run(self, verb: str, publications: Iterable[Publication]) -> None:
        if text := "".join(element(verb, self._table, publication) for publication in publications):
            self._nft.run(text)

    def routes(self) -> list[Network]:
        """See HostNetwork."""
        with Netlink.open() as netlink:
            return netlink.routes()

    async def clear(self, networks: Iterable[NetworkRecord]) -> None:
        """See HostNetwork."""
        with contextlib.suppress(Unavailable):
            self._nft.run(removal(self._table))
        with contextlib.suppress(Unavailable):
            self._nft.run(frame_removal(self._table))
        for network in networks:
            with contextlib.suppress(Unavailable):
                await self.remove(network)
        if self.shared_bridge:
            with contextlib.suppress(Unavailable):
                await trio.to_thread.run_sync(_remove_bridges, self._alias, self.shared_bridge.__eq__)


def _redirect_flows(publication: Publication) -> None:
    """Make running UDP flows take the new rule: conntrack sends a flow to its old target for as long as it lasts."""
    try:
        forget_udp_flows(publication.host_port, ipv6=":" in publication.address)
    except (OSError, NetlinkError) as error:
        log.warning("flows to port %d/udp may still go to their old target: %s", publication.host_port, error)


def _write_sysctl(name: str, value: str) -> None:
    try:
        write_sysctl(name, value)
    except OSError as error:
        raise Unavailable(f"cannot set net/{name}: {error}") from error


def _addresses(network: NetworkRecord) -> set[str]:
    """The addresses of the network's bridge, each as address/prefix length."""
    return {f"{pool.gateway}/{parse_subnet(pool.subnet).prefixlen}" for pool in network.used_pools}


@contextlib.contextmanager
def _open_netlink(what: str) -> Iterator[Netlink]:
    """A netlink socket whose errors are Unavailable, with what failed."""
    try:
        with Netlink.open() as netlink:
            yield netlink
    except NetlinkError as error:
        raise Unavailable(f"{what}: {error}") from error


def _add_bridge(network: NetworkRecord, new: bool, alias: str, uplink: Uplink | None) -> None:
    name = network.bridge
    with _open_netlink(f"bridge {name} of network {network.name}") as netlink:
        bridge = netlink.find_link(name)
        if bridge is None:
            # A bridge without a MAC address of its own changes it with its ports.
            bridge = netlink.add_bridge(name, "02:42:" + os.urandom(4).hex(":"), alias)
        elif new and uplink is None:
            raise Conflict(f"bridge name {name} belongs to a network device of the host")
        elif bridge.kind != "bridge":
            raise Conflict(f"network device {name} is not a bridge")
        if bridge.alias == alias:
            # The host may use a bridge of its own (`--bridge`) in its LAN, whose routers it obeys.
            try:
                refuse_routes_of_guests(name)
            except OSError as error:
                raise Unavailable(f"bridge {name} of network {network.name}: {error}") from error
        _add_addresses(netlink, bridge, network)
        if network.mtu:
            netlink.set_mtu(bridge, network.mtu)
        netlink.set_up(bridge)
        if uplink is not None:
            _add_uplink(netlink, bridge, uplink)
    # A connection of the host to a published port on 127.0.0.1 goes out through the bridge.
    _write_sysctl(f"ipv4/conf/{name}/route_localnet", "1")


def _add_addresses(netlink: Netlink, bridge: Link, network: NetworkRecord) -> None:
    present = netlink.addresses(bridge)
    for pool in network.used_pools:
        subnet = parse_subnet(pool.subnet)
        if subnet.version == 6:
            _write_sysctl(f"ipv6/conf/{bridge.name}/disable_ipv6", "0")
            _write_sysctl(f"ipv6/conf/{bridge.name}/accept_dad", "0")
            _write_sysctl("ipv6/conf/all/forwarding", "1")
        address = f"{pool.gateway}/{subnet.prefixlen}"
        if address not in present:
            netlink.add_address(bridge, address)


def _add_uplink(netlink: Netlink, bridge: Link, uplink: Uplink) -> None:
    interface = netlink.find_link(uplink.interface)
    if interface is None:
        raise Unavailable(f"--bridge-interface {uplink.interface}: no such network device")
    netlink.add_port(bridge, interface)


def _find_bridge(network: NetworkRecord) -> None:
    with Netlink.open() as netlink:
        link = netlink.find_link(network.bridge)
    if link is None or link.kind != "bridge":
        raise InvalidParameter(f"--container-network {network.name}: this host has no bridge {network.bridge}")


def _remove_addresses(bridge: str, remove: Callable[[str], bool]) -> None:
    """Remove those addresses of a bridge for which `remove` is true. Link-local addresses stay."""
    with _open_netlink(f"addresses of bridge {bridge}") as netlink:
        link = netlink.find_link(bridge)
        if link is None:
            return
        for address in netlink.addresses(link):
            if not address.startswith("fe80:") and remove(address):
                netlink.remove_address(link, address)


def _remove_bridges(alias: str, remove: Callable[[str], bool]) -> None:
    """Remove those bridges with this alias for whose names `remove` is true."""
    with _open_netlink("a bridge cannot be removed") as netlink:
        for link in netlink.links():
            if link.alias == alias and remove(link.name):
                netlink.remove_link(link)


def may_create_bridges() -> bool:
    """Whether this process has CAP_NET_ADMIN (capabilities(7)) and can open taps."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 12 & 1) and os.access("/dev/net/tun", os.R_OK | os.W_OK)
    return False
