"""The guest's NICs: Network of protos/tether/v1/network.proto."""

import os
import socket
import struct

import trio

from protos.tether.v1 import network_pb2
from tether.agent import listeners, modules
from tether.agent.dhcp import Leases
from tether.agent.fast_path import FastPathDialler
from tether.rpc.server import Call
from tether.rpc.status import Code, RpcError
from tether.system.netlink import Netlink, nics

_CARD_PATIENCE = 15.0
# linux/netlink.h.
_NETLINK_NETFILTER, _NLMSG_ERROR = 12, 2
_SO_SNDBUFFORCE = 32
_FILTER_MODULES = ("nf_tables", "nf_conntrack", "nft_ct")


async def apply(config: network_pb2.NetworkConfig, leases: Leases) -> None:
    """Give NICs their name, addresses and routes. RpcError when a NIC does not appear or the kernel refuses."""
    if config.filter:
        # Before there is an address that it is about.
        _filter(config.filter)
    with Netlink() as netlink:
        for wanted in config.interfaces:
            index, name, mac = await _nic(wanted)
            try:
                if wanted.name and name != wanted.name:
                    # NICs that were plugged in may have come in any order: whichever has the name gets its own later.
                    for taken, other_name, _ in nics():
                        if other_name == wanted.name:
                            netlink.set_link(taken, up=False, name=f"card{taken}")
                    netlink.set_link(index, up=False, name=wanted.name)
                # A virtual NIC takes another address while it is up, which saves it a walk through down.
                other = wanted.set_mac and mac != wanted.mac.lower()
                netlink.set_link(index, mtu=wanted.mtu, mac=wanted.mac if other else None)
                for address in wanted.addresses:
                    netlink.add_address(index, address)
                for route in wanted.routes:
                    netlink.add_route(index, route.destination, route.gateway)
            except (OSError, ValueError) as error:
                raise RpcError(Code.FAILED_PRECONDITION, f"network {wanted.name}: {error}") from error
    await leases.keep({one.name: one.dhcp_route for one in config.interfaces if one.dhcp}, socket.gethostname())


def _filter(batch: bytes) -> None:
    """Give the kernel a transaction of nf_tables. RpcError when it refuses."""
    try:
        for name in _FILTER_MODULES:
            modules.load(name)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as netlink:
            netlink.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(batch))
            netlink.setblocking(False)
            netlink.send(batch)
            # It is through when the kernel has it; what it says of each message waits there.
            while True:
                try:
                    data = netlink.recv(1 << 20)
                except BlockingIOError:
                    return
                while data:
                    length, kind, _, sequence, _ = struct.unpack_from("IHHII", data)
                    if kind == _NLMSG_ERROR and (code := -struct.unpack_from("i", data, 16)[0]):
                        raise OSError(code, f"message {sequence}: {os.strerror(code)}")
                    data = data[length + 3 & ~3 :]
    except OSError as error:
        raise RpcError(Code.FAILED_PRECONDITION, f"network filter: {error}") from error


def remove(config: network_pb2.NetworkConfig, leases: Leases) -> None:
    """Take away what `apply` gave, as far as it is still there."""
    for wanted in config.interfaces:
        leases.drop(wanted.name)
    with Netlink() as netlink:
        for wanted in config.interfaces:
            for index, name, _ in nics():
                if name == wanted.name:
                    for address in wanted.addresses:
                        netlink.remove_address(index, address)


async def _nic(wanted: network_pb2.Interface) -> tuple[int, str, str]:
    deadline = trio.current_time() + _CARD_PATIENCE
    while True:
        found = nics()
        if wanted.set_mac and wanted.index < len(found):
            return found[wanted.index]
        for nic in found:
            if nic[2] == wanted.mac.lower():
                return nic
        if trio.current_time() >= deadline:
            raise RpcError(Code.NOT_FOUND, f"no network NIC with the address {wanted.mac}")
        await trio.sleep(0.01)


class NetworkService:
    """`quick` dials, and gives the line to the link."""

    def __init__(self, quick: FastPathDialler, leases: Leases) -> None:
        self._quick = quick
        self._leases = leases

    async def open_quick_line(self, request: network_pb2.OpenQuickLineRequest) -> network_pb2.OpenQuickLineResponse:
        await self._quick.dial(request)
        return network_pb2.OpenQuickLineResponse()

    async def apply(self, request: network_pb2.ApplyRequest) -> network_pb2.ApplyResponse:
        await apply(request.config, self._leases)
        return network_pb2.ApplyResponse()

    async def watch_listeners(self, request: network_pb2.WatchListenersRequest, call: Call) -> None:
        await listeners.watch(call)

    async def watch_leases(self, request: network_pb2.WatchLeasesRequest, call: Call) -> None:
        await self._leases.watch(call)
