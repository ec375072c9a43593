"""The guest's cards: Network of protos/tether/v1/network.proto."""

import trio

from protos.tether.v1 import network_pb2
from tether.agent import listeners
from tether.agent.quick import QuickDialler
from tether.rpc.server import Call
from tether.rpc.status import Code, RpcError
from tether.system.netlink import Netlink, cards

_CARD_PATIENCE = 5.0


async def apply(config: network_pb2.NetworkConfig) -> None:
    """Give cards their name, addresses and routes. RpcError when a card does not appear or the kernel refuses."""
    with Netlink() as netlink:
        for wanted in config.interfaces:
            index, name, mac = await _card(wanted)
            try:
                if wanted.name and name != wanted.name:
                    netlink.set_link(index, up=False, name=wanted.name)
                # A virtual card takes another address while it is up, which saves it a walk through down.
                other = wanted.set_mac and mac != wanted.mac.lower()
                netlink.set_link(index, mtu=wanted.mtu, mac=wanted.mac if other else None)
                for address in wanted.addresses:
                    netlink.add_address(index, address)
                for route in wanted.routes:
                    netlink.add_route(index, route.destination, route.gateway)
            except (OSError, ValueError) as error:
                raise RpcError(Code.FAILED_PRECONDITION, f"network {wanted.name}: {error}") from error


def remove(config: network_pb2.NetworkConfig) -> None:
    """Take away what `apply` gave, as far as it is still there."""
    with Netlink() as netlink:
        for wanted in config.interfaces:
            for index, name, _ in cards():
                if name == wanted.name:
                    for address in wanted.addresses:
                        netlink.remove_address(index, address)


async def _card(wanted: network_pb2.Interface) -> tuple[int, str, str]:
    deadline = trio.current_time() + _CARD_PATIENCE
    while True:
        found = cards()
        if wanted.set_mac and wanted.index < len(found):
            return found[wanted.index]
        for card in found:
            if card[2] == wanted.mac.lower():
                return card
        if trio.current_time() >= deadline:
            raise RpcError(Code.NOT_FOUND, f"no network card with the address {wanted.mac}")
        await trio.sleep(0.01)


class NetworkService:
    """`quick` dials, and gives the line to the link."""

    def __init__(self, quick: QuickDialler) -> None:
        self._quick = quick

    async def open_quick_line(self, request: network_pb2.OpenQuickLineRequest) -> network_pb2.OpenQuickLineResponse:
        await self._quick.dial(request)
        return network_pb2.OpenQuickLineResponse()

    async def apply(self, request: network_pb2.ApplyRequest) -> network_pb2.ApplyResponse:
        await apply(request.config)
        return network_pb2.ApplyResponse()

    async def watch_listeners(self, request: network_pb2.WatchListenersRequest, call: Call) -> None:
        await listeners.watch(call)
