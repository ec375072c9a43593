"""Addresses by DHCP (RFC 2131). busybox's udhcpc obtains and renews leases; this module applies them to the NICs."""

import os
import signal
from dataclasses import dataclass, field

import trio

from protos.tether.v1 import network_pb2
from tether.agent.child import Pipe
from tether.agent.reaper import Reaper
from tether.rpc.call import Call
from tether.rpc.status import Code, RpcError
from tether.system.rtnetlink import Rtnetlink, nics

# Seconds until the first lease: the port of a bridge may take a while before it forwards (IEEE 802.1D).
_FIRST_LEASE_SECONDS = 20.0
_RESTART_SECONDS = 3.0
_BUSYBOX = "/bin/busybox"


@dataclass(slots=True)
class _Client:
    """The DHCP client of one NIC. `lease` is None while it has none; `first` is set with the first lease."""

    route: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    lease: network_pb2.Lease | None = None
    first: trio.Event = field(default_factory=trio.Event)


class Leases:
    """The DHCP clients of the guest, by name of the NIC. They run in `nursery`."""

    def __init__(self, nursery: trio.Nursery, reaper: Reaper) -> None:
        self._nursery = nursery
        self._reaper = reaper
        self._clients: dict[str, _Client] = {}
        self._changed = trio.Event()

    async def keep(self, wanted: dict[str, bool], hostname: str) -> None:
        """Run a client on each NIC of `wanted` and on no other; the value says whether the lease's default route is used.

        Returns when each NIC has a lease. RpcError when no DHCP server answers.
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
                    self._apply(name, client, client.lease)
        for name in wanted:
            with trio.move_on_after(_FIRST_LEASE_SECONDS) as waiting:
                await self._clients[name].first.wait()
            if waiting.cancelled_caught:
                self.drop(name)
                raise RpcError(Code.FAILED_PRECONDITION, f"network {name}: no DHCP server answers")

    def drop(self, name: str) -> None:
        """Stop the client of a NIC, and remove its address."""
        client = self._clients.pop(name, None)
        if client is not None:
            client.scope.cancel()
            self._withdraw(name, client)

    async def watch(self, call: Call) -> None:
        """Serve a call of Network.WatchLeases until its client cancels it."""
        while True:
            changed = self._changed
            found = [client.lease for client in self._clients.values() if client.lease is not None]
            await call.send(network_pb2.Leases(leases=found))
            await changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _run(self, name: str, client: _Client, hostname: str) -> None:
        with client.scope:
            while True:
                await self._run_udhcpc(name, client, hostname)
                # udhcpc never ends by itself: something has killed it.
                await trio.sleep(_RESTART_SECONDS)

    def _spawn(self, name: str, hostname: str) -> tuple[int, Pipe]:
        """Start udhcpc; return its pid and its output."""
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

    async def _run_udhcpc(self, name: str, client: _Client, hostname: str) -> None:
        pid, output = self._spawn(name, hostname)
        ended = trio.Event()
        self._reaper.watch(pid, lambda _: ended.set())
        try:
            rest = b""
            while data := await output.read():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._on_line(name, client, line.decode("utf-8", "replace"))
        finally:
            output.close()
            if not ended.is_set():
                os.kill(pid, signal.SIGKILL)

    def _on_line(self, name: str, client: _Client, line: str) -> None:
        """Take a line that build/guest/dhcp-event prints: "event|address|routers|dns|search"."""
        event, address, routers, servers, domains = (line.split("|") + [""] * 4)[:5]
        if event == "deconfig":
            self._withdraw(name, client)
        elif event in ("bound", "renew"):
            lease = network_pb2.Lease(
                interface=name,
                address=address,
                gateway=next(iter(routers.split()), ""),
                dns=servers.split(),
                search=list(dict.fromkeys(domains.split())),
            )
            self._apply(name, client, lease)

    def _apply(self, name: str, client: _Client, lease: network_pb2.Lease) -> None:
        if client.lease is not None and client.lease.address != lease.address:
            self._withdraw(name, client)
        index = _index_of(name)
        if index is None:
            return
        try:
            with Rtnetlink() as rtnetlink:
                rtnetlink.add_address(index, lease.address)
                if client.route and lease.gateway:
                    rtnetlink.add_route(index, "", lease.gateway)
        except (OSError, ValueError):
            return  # The lease makes no sense. udhcpc renews it in time.
        before = client.lease
        client.lease = lease
        client.first.set()
        if before != lease:
            self._notify()

    def _withdraw(self, name: str, client: _Client) -> None:
        lease, client.lease = client.lease, None
        if lease is None:
            return
        index = _index_of(name)
        if index is not None:
            with Rtnetlink() as rtnetlink:
                rtnetlink.remove_address(index, lease.address)
        self._notify()


def _index_of(name: str) -> int | None:
    return next((index for index, found, _ in nics() if found == name), None)
