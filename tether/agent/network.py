"""The guest's NICs: Network of protos/tether/v1/network.proto."""

import socket
from collections.abc import Callable
from pathlib import Path

import trio

from protos.tether.v1 import network_pb2
from tether.agent import listeners, modules
from tether.agent.dhcp import Leases
from tether.agent.fast_path import FastPathDialler
from tether.rpc.call import Call
from tether.rpc.status import Code, RpcError
from tether.system.netlink import NetlinkSocket
from tether.system.network_namespace import entered
from tether.system.rtnetlink import Rtnetlink, nics

_NIC_SECONDS = 15.0
_IPV6 = Path("/proc/sys/net/ipv6/conf")
# linux/netlink.h.
_NETLINK_NETFILTER = 12
_FILTER_MODULES = ("nf_tables", "nf_conntrack", "nft_ct")


class ContainerNetwork:
    """The network namespace of a container, a descriptor, and the host name that its DHCP clients send.

    -1 and "" are the guest's own, which the first container uses. `changing` is held while NICs are configured.
    """

    def __init__(self, namespace: int = -1, hostname: str = "") -> None:
        self.namespace = namespace
        self.hostname = hostname
        self.changing = trio.Lock()


GUEST_NETWORK = ContainerNetwork()


async def apply(config: network_pb2.NetworkConfig, leases: Leases, network: ContainerNetwork = GUEST_NETWORK) -> None:
    """Give NICs their name, addresses and routes. RpcError when a NIC does not appear or the kernel refuses."""
    if config.filter:
        # Before the NICs have addresses: no packet may pass unfiltered.
        with entered(network.namespace):
            _filter(config.filter)
    for wanted in config.interfaces:
        index, name, mac = await _nic(wanted, network.namespace)
        with entered(network.namespace), Rtnetlink() as rtnetlink:
            try:
                if wanted.name and name != wanted.name:
                    # Hot-plugged NICs appear in any order. A NIC that has the wanted name receives its own name later.
                    for taken, other_name, _ in nics():
                        if other_name == wanted.name:
                            rtnetlink.set_link(taken, up=False, name=f"nic{taken}")
                    rtnetlink.set_link(index, up=False, name=wanted.name)
                if not wanted.dhcp:
                    _enable_ipv6(wanted.name or name, any(":" in address for address in wanted.addresses))
                # A virtual NIC accepts another MAC address while it is up, which is faster than setting it down.
                other = wanted.set_mac and mac != wanted.mac.lower()
                rtnetlink.set_link(index, mtu=wanted.mtu, mac=wanted.mac if other else None)
                for address in wanted.addresses:
                    rtnetlink.add_address(index, address)
                for route in wanted.routes:
                    rtnetlink.add_route(index, route.destination, route.gateway)
            except (OSError, ValueError) as error:
                raise RpcError(Code.FAILED_PRECONDITION, f"network {wanted.name}: {error}") from error
    wanted_leases = {one.name: one.dhcp_route for one in config.interfaces if one.dhcp}
    await leases.keep(wanted_leases, network.hostname or socket.gethostname(), network.namespace)


def _enable_ipv6(name: str, enabled: bool) -> None:
    """As moby does (libnetwork/osl/interface_linux.go): a NIC without an IPv6 address takes part in no IPv6, so that no neighbour
    can announce routes to it."""
    try:
        (_IPV6 / name / "disable_ipv6").write_text("0" if enabled else "1")
    except FileNotFoundError:
        if enabled:
            raise


def _filter(batch: bytes) -> None:
    """Give the kernel a transaction of nf_tables. RpcError when the kernel refuses it."""
    try:
        for name in _FILTER_MODULES:
            modules.load(name)
        with NetlinkSocket(_NETLINK_NETFILTER) as netlink:
            netlink.send_batch(batch)
    except OSError as error:
        raise RpcError(Code.FAILED_PRECONDITION, f"network filter: {error}") from error


def remove(config: network_pb2.NetworkConfig, leases: Leases, namespace: int = -1) -> None:
    """Remove the addresses that `apply` added, as far as they are still there."""
    for wanted in config.interfaces:
        leases.drop(wanted.name, namespace)
    with entered(namespace), Rtnetlink() as rtnetlink:
        for wanted in config.interfaces:
            for index, name, _ in nics():
                if name == wanted.name:
                    for address in wanted.addresses:
                        rtnetlink.remove_address(index, address)


async def _nic(wanted: network_pb2.Interface, namespace: int) -> tuple[int, str, str]:
    """Wait for a NIC, and move it to the namespace. The kernel puts each new NIC into the guest's own."""
    deadline = trio.current_time() + _NIC_SECONDS
    while True:
        with entered(namespace):
            found = nics()
        if wanted.set_mac and wanted.index < len(found):
            return found[wanted.index]
        for nic in found:
            if nic[2] == wanted.mac.lower():
                return nic
        if namespace >= 0 and _move(wanted.mac.lower(), namespace):
            continue
        if trio.current_time() >= deadline:
            raise RpcError(Code.NOT_FOUND, f"no NIC with the MAC address {wanted.mac}")
        await trio.sleep(0.01)


def _move(mac: str, namespace: int) -> bool:
    """Move a NIC from the guest's own namespace, if it is there."""
    for index, _, found in nics():
        if found == mac:
            try:
                with Rtnetlink() as rtnetlink:
                    # Its name may be taken in the other namespace.
                    rtnetlink.set_link(index, up=False, name=f"moved{index}")
                    rtnetlink.move_link(index, namespace)
            except OSError as error:
                raise RpcError(Code.FAILED_PRECONDITION, f"network: move {mac}: {error}") from error
            return True
    return False


class NetworkService:
    """`fast_path` dials the appliance, and gives the connection to the link. `network_of` finds the network of a container by its id."""

    def __init__(
        self, fast_path: FastPathDialler, leases: Leases, network_of: Callable[[str], ContainerNetwork]
    ) -> None:
        self._fast_path = fast_path
        self._leases = leases
        self._network_of = network_of

    async def open_quick_line(self, request: network_pb2.OpenQuickLineRequest) -> network_pb2.OpenQuickLineResponse:
        await self._fast_path.dial(request)
        return network_pb2.OpenQuickLineResponse()

    async def apply(self, request: network_pb2.ApplyRequest) -> network_pb2.ApplyResponse:
        async with self._network_of(request.id).changing:
            # Again: the container may have been removed meanwhile.
            await apply(request.config, self._leases, self._network_of(request.id))
        return network_pb2.ApplyResponse()

    async def watch_listeners(self, request: network_pb2.WatchListenersRequest, call: Call) -> None:
        await listeners.watch(call, lambda: self._network_of(request.id).namespace)

    async def watch_leases(self, request: network_pb2.WatchLeasesRequest, call: Call) -> None:
        await self._leases.watch(call, lambda: self._network_of(request.id).namespace)
