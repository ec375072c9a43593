"""How vchd reaches buildkitd in the builder's machine."""

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from appliance.buildkit.dial import Target
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.builds.credentials import BuilderKeys
from appliance.errors import Unavailable, VchError
from appliance.guest import ContainerUnix, GuestTunnel
from tether.rpc.grpcio_socket import listen_in_private


class TunnelDial:
    """A unix socket of the builder's container, reached through the tether: it needs no port and no network."""

    def __init__(self, tunnel: GuestTunnel, process_id: str, path: str) -> None:
        self._tunnel = tunnel
        self._target = ContainerUnix(process_id, path)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Target]:
        """See Dial."""
        listener, place = listen_in_private()
        accepting = trio.socket.from_stdlib_socket(listener)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept, accepting, IsolatedTasks(nursery))
                yield Target(f"unix:/proc/self/fd/{place}")
                nursery.cancel_scope.cancel()
        finally:
            accepting.close()
            os.close(place)

    async def _accept(self, listener: trio.socket.SocketType, tasks: IsolatedTasks) -> None:
        while True:
            connection, _ = await listener.accept()
            tasks.start_soon(self._carry, connection)

    async def _carry(self, connection: trio.socket.SocketType) -> None:
        # VchError: buildkitd does not listen yet, or the machine is gone. `relay` closes the connection, and grpcio sees its end.
        with contextlib.suppress(VchError):
            await self._tunnel.relay(self._target, trio.SocketStream(connection))


class TlsDial:
    """The TCP port of buildkitd in the builder's network, by mutual TLS: where this host reaches that network, the fastest way."""

    def __init__(self, address: str, port: int, keys: BuilderKeys) -> None:
        self._address = f"ipv4:{address}:{port}"
        self._keys = keys

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Target]:
        """See Dial."""
        try:
            tls = await trio.to_thread.run_sync(self._keys.for_calls)
        except OSError as error:
            raise Unavailable(f"the keys of the builder cannot be read: {error}") from error
        yield Target(self._address, tls)
