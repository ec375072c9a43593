"""Addresses by DHCP (RFC 2131). busybox's udhcpc asks and renews; what it is told is put on the NICs here."""

import os
import signal
from dataclasses import dataclass, field

import trio

from protos.tether.v1 import network_pb2
from tether.agent.child import Pipe
from tether.agent.reaper import Reaper
from tether.rpc.server import Call
from tether.rpc.status import Code, RpcError
from tether.system.netlink import Netlink, nics

# Until the first answer: a bridge's port may take a while before it passes anything on (IEEE 802.1D).
_PATIENCE = 20.0
_AGAIN = 3.0
_BUSYBOX = "/bin/busybox"


@dataclass(slots=True)
class _Client:
    """One NIC's. `lease` is None while it has none."""

    route: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    lease: network_pb2.Lease | None = None
    first: trio.Event = field(default_factory=trio.Event)


class Leases:
    """`nursery` owns the clients."""

    def __init__(self, nursery: trio.Nursery, reaper: Reaper) -> None:
        self._nursery = nursery
        self._reaper = reaper
        self._clients: dict[str, _Client] = {}
        self._changed = trio.Event()

    async def keep(self, wanted: dict[str, bool], hostname: str) -> None:
        """Have a lease on each of these NICs, by name, and on no other; True: with the default route.

        Returns when all have one. RpcError when nobody answers.
        """
        for name in [name for name in self._clients if name not in wanted]:
            self.drop(name)
        for name, route in wanted.items():
            client = self._clients.get(name)
            if client is None:
                client = self._clients[name] = _Client(route)
                self._nursery.start_soon(self._run, name, client, hostname)
            elif client.route != route:
                client.route = route
                if client.lease is not None:
                    self._take(name, client, client.lease)
        for name in wanted:
            with trio.move_on_after(_PATIENCE) as waiting:
                await self._clients[name].first.wait()
            if waiting.cancelled_caught:
                self.drop(name)
                raise RpcError(Code.FAILED_PRECONDITION, f"network {name}: no DHCP server answers")

    def drop(self, name: str) -> None:
        """Have none on this NIC any more."""
        client = self._clients.pop(name, None)
        if client is not None:
            client.scope.cancel()
            self._give_up(name, client)

    async def watch(self, call: Call) -> None:
        """Answer a call of Network.WatchLeases until its client goes."""
        while True:
            changed = self._changed
            found = [client.lease for client in self._clients.values() if client.lease is not None]
            await call.send(network_pb2.Leases(leases=found))
            await changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _run(self, name: str, client: _Client, hostname: str) -> None:
        with client.scope:
            while True:
                await self._ask(name, client, hostname)
                # It has been ended by somebody.
                await trio.sleep(_AGAIN)

    def _begin(self, name: str, hostname: str) -> tuple[int, Pipe]:
        """Start udhcpc: its pid, and what it says."""
        read, write = os.pipe2(os.O_CLOEXEC)
        arguments = ["udhcpc", "-f", "-i", name, "-s", "/bin/dhcp-event"]
        arguments += ["-O", "search", "-t", "4", "-T", "2", "-A", "5"]
        if hostname:
            arguments += ["-x", f"hostname:{hostname}"]
        try:
            pid = os.posix_spawn(
                _BUSYBOX,
                ["busybox", *arguments],
                {"PATH": "/bin"},
                setsigmask=[],
                file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
            )
        finally:
            os.close(write)
        return pid, Pipe(read)

    async def _ask(self, name: str, client: _Client, hostname: str) -> None:
        pid, said = self._begin(name, hostname)
        ended = trio.Event()
        self._reaper.watch(pid, lambda _: ended.set())
        try:
            rest = b""
            while data := await said.read():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._hear(name, client, line.decode("utf-8", "replace"))
        finally:
            said.close()
            if not ended.is_set():
                os.kill(pid, signal.SIGKILL)

    def _hear(self, name: str, client: _Client, line: str) -> None:
        """A line of build/guest/dhcp-event."""
        event, address, routers, servers, domains = (line.split("|") + [""] * 4)[:5]
        if event == "deconfig":
            self._give_up(name, client)
        elif event in ("bound", "renew"):
            lease = network_pb2.Lease(
                interface=name,
                address=address,
                gateway=next(iter(routers.split()), ""),
                dns=servers.split(),
                search=list(dict.fromkeys(domains.split())),
            )
            self._take(name, client, lease)

    def _take(self, name: str, client: _Client, lease: network_pb2.Lease) -> None:
        if client.lease is not None and client.lease.address != lease.address:
            self._give_up(name, client)
        index = _index_of(name)
        if index is None:
            return
        try:
            with Netlink() as netlink:
                netlink.add_address(index, lease.address)
                if client.route and lease.gateway:
                    netlink.add_route(index, "", lease.gateway)
        except (OSError, ValueError):
            return  # a server that tells nonsense; udhcpc asks again when its time has come
        told = client.lease
        client.lease = lease
        client.first.set()
        if told != lease:
            self._tell()

    def _give_up(self, name: str, client: _Client) -> None:
        lease, client.lease = client.lease, None
        if lease is None:
            return
        index = _index_of(name)
        if index is not None:
            with Netlink() as netlink:
                netlink.remove_address(index, lease.address)
        self._tell()


def _index_of(name: str) -> int | None:
    return next((index for index, found, _ in nics() if found == name), None)
