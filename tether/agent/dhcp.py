"""Addresses by DHCP (RFC 2131). busybox's udhcpc obtains and renews leases; this module applies them to the NICs."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from protos.tether.v1 import network_pb2
from tether.agent.child import Pipe
from tether.agent.reaper import Reaper
from tether.rpc.call import Call
from tether.rpc.status import Code, RpcError
from tether.system.network_namespace import entered
from tether.system.rtnetlink import Rtnetlink, nics

# Seconds until the first lease: the port of a bridge may take a while before it forwards (IEEE 802.1D).
_FIRST_LEASE_SECONDS = 20.0
_RESTART_SECONDS = 3.0
_BUSYBOX = "/bin/busybox"


@dataclass(slots=True)
class _Client:
    """The DHCP client of one NIC in a network namespace (a descriptor; -1 is the guest's own).

    `lease` is None while it has none; `first` is set with the first lease.
    """

    name: str
    namespace: int
    hostname: str
    route: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    lease: network_pb2.Lease | None = None
    first: trio.Event = field(default_factory=trio.Event)


class Leases:
    """The DHCP clients of the guest, by network namespace and name of the NIC. They run in `nursery`.

    A caller that closes the descriptor of a namespace drops its clients first.
    """

    def __init__(self, nursery: trio.Nursery, reaper: Reaper) -> None:
        self._nursery = nursery
        self._reaper = reaper
        self._clients: dict[tuple[int, str], _Client] = {}
        self._changed = trio.Event()

    async def keep(self, wanted: dict[str, bool], hostname: str, namespace: int = -1) -> None:
        """Run a client on each NIC of `wanted` and on no other NIC of the namespace.

        The values of `wanted` say whether the lease's default route is used. The clients send `hostname`.

        Returns when each NIC has a lease. RpcError when no DHCP server answers.
        """
        for other, name in [key for key in self._clients if key[0] == namespace and key[1] not in wanted]:
            self.drop(name, other)
        clients = []
        for name, route in wanted.items():
            client = self._clients.get((namespace, name))
            if client is None:
                client = self._clients[namespace, name] = _Client(name, namespace, hostname, route)
                self._nursery.start_soon(self._run, client)
            elif client.route != route:
                client.route = route
                if client.lease is not None:
                    self._apply(client, client.lease)
            clients.append(client)
        for client in clients:
            with trio.move_on_after(_FIRST_LEASE_SECONDS) as waiting:
                await client.first.wait()
            if waiting.cancelled_caught:
                name = client.name
                self.drop(name, namespace)
                raise RpcError(Code.FAILED_PRECONDITION, f"network {name}: no DHCP server answers")

    def drop(self, name: str, namespace: int = -1) -> None:
        """Stop the client of a NIC, and remove its address."""
        client = self._clients.pop((namespace, name), None)
        if client is not None:
            client.scope.cancel()
            self._withdraw(client)

    async def watch(self, call: Call, find_namespace: Callable[[], int]) -> None:
        """Serve a call of Network.WatchLeases until its client cancels it.

        `find_namespace` returns the descriptor of the network namespace; it raises RpcError when the container was removed.
        """
        while True:
            changed, namespace = self._changed, find_namespace()
            clients = [client for (other, _), client in self._clients.items() if other == namespace]
            found = [client.lease for client in clients if client.lease is not None]
            await call.send(network_pb2.Leases(leases=found))
            await changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _run(self, client: _Client) -> None:
        with client.scope:
            while True:
                await self._run_udhcpc(client)
                # udhcpc never ends by itself: something has killed it.
                await trio.sleep(_RESTART_SECONDS)

    def _spawn(self, client: _Client) -> tuple[int, Pipe]:
        """Start udhcpc; return its pid and its output."""
        read, write = os.pipe2(os.O_CLOEXEC)
        arguments = ["udhcpc", "-f", "-i", client.name, "-s", "/bin/dhcp-event"]
        arguments += ["-O", "search", "-t", "4", "-T", "2", "-A", "5"]
        if client.hostname:
            arguments += ["-x", f"hostname:{client.hostname}"]
        try:
            with entered(client.namespace):
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

    async def _run_udhcpc(self, client: _Client) -> None:
        pid, output = self._spawn(client)
        ended = trio.Event()
        self._reaper.watch(pid, lambda _: ended.set())
        try:
            rest = b""
            while data := await output.read():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._on_line(client, line.decode("utf-8", "replace"))
        finally:
            output.close()
            if not ended.is_set():
                os.kill(pid, signal.SIGKILL)

    def _on_line(self, client: _Client, line: str) -> None:
        """Take a line that build/guest/dhcp-event prints: "event|address|routers|dns|search"."""
        event, address, routers, servers, domains = (line.split("|") + [""] * 4)[:5]
        if event == "deconfig":
            self._withdraw(client)
        elif event in ("bound", "renew"):
            lease = network_pb2.Lease(
                interface=client.name,
                address=address,
                gateway=next(iter(routers.split()), ""),
                dns=servers.split(),
                search=list(dict.fromkeys(domains.split())),
            )
            self._apply(client, lease)

    def _apply(self, client: _Client, lease: network_pb2.Lease) -> None:
        if client.lease is not None and client.lease.address != lease.address:
            self._withdraw(client)
        index = _index_of(client)
        if index is None:
            return
        try:
            with entered(client.namespace), Rtnetlink() as rtnetlink:
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

    def _withdraw(self, client: _Client) -> None:
        lease, client.lease = client.lease, None
        if lease is None:
            return
        index = _index_of(client)
        if index is not None:
            with entered(client.namespace), Rtnetlink() as rtnetlink:
                rtnetlink.remove_address(index, lease.address)
        self._notify()


def _index_of(client: _Client) -> int | None:
    with entered(client.namespace):
        return next((index for index, found, _ in nics() if found == client.name), None)
