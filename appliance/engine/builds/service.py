"""Connections of build clients: BuildKit's API on /grpc, and the clients' sessions on /session."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import trio

from appliance.buildkit.budget import ByteBudget
from appliance.buildkit.client_socket import client_streams
from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.grpc_connection import GrpcConnection
from appliance.buildkit.session_bridge import bridge, session_metadata
from appliance.engine.builds.calls import BuildCalls
from appliance.engine.builds.contracts import Builders
from appliance.errors import InvalidParameter, Unavailable
from tether.rpc.bridge import CallAbandoned, LoopThread

# A build has four connections of /grpc and two of /session.
MOST_CONNECTIONS = 256
MOST_SESSIONS = 128

_Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


class _Carrier:
    """See api.builds.upgrades.Carrier. `serve` runs on the build loop."""

    def __init__(self, loop: LoopThread, serve: _Serve) -> None:
        self._loop = loop
        self._serve = serve

    async def carry(self, connection: socket.socket, early: bytes) -> None:
        """Serve the connection until either end closes. Closes it."""

        async def run() -> None:
            async with client_streams(connection) as (reader, writer):
                await self._serve(reader, writer, early)

        try:
            await self._loop.run(run)
        except CallAbandoned:
            # The build loop ends with the daemon.
            pass


class BuildConnections:
    """`loop` is the build loop, `calls` serves the calls on /grpc."""

    def __init__(self, loop: LoopThread, builders: Builders, calls: BuildCalls) -> None:
        self._loop = loop
        self._builders = builders
        self._calls = calls
        self._budget = ByteBudget()
        self._connections = trio.CapacityLimiter(MOST_CONNECTIONS)
        self._sessions = trio.CapacityLimiter(MOST_SESSIONS)

    @asynccontextmanager
    async def grpc(self) -> AsyncIterator[_Carrier]:
        """A connection of BuildKit's API. Unavailable when there are too many."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes) -> None:
            async with self._calls.connection() as serve_call:
                await GrpcConnection(reader, writer, serve_call, self._budget).run(early)

        async with _taken(self._connections, "too many connections of build clients"):
            yield _Carrier(self._loop, serve)

    @asynccontextmanager
    async def session(self, headers: Mapping[str, str]) -> AsyncIterator[_Carrier]:
        """A session of a client, to which BuildKit connects. Unavailable when there are too many, or when buildkitd cannot be started.

        InvalidParameter for headers that cannot be passed on.
        """
        try:
            metadata = session_metadata(headers.items())
        except BuildkitError as error:
            raise InvalidParameter(f"malformed header of the session: {error.text}") from error
        async with _taken(self._sessions, "too many sessions of build clients"), self._builders.use() as lease:

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes) -> None:
                await bridge(reader, writer, early, metadata, lease.channel)

            yield _Carrier(self._loop, serve)


@asynccontextmanager
async def _taken(limiter: trio.CapacityLimiter, refusal: str) -> AsyncIterator[None]:
    """A place of the limiter, at once. Unavailable when there is none."""
    borrower = object()
    try:
        limiter.acquire_on_behalf_of_nowait(borrower)
    except trio.WouldBlock:
        raise Unavailable(refusal) from None
    try:
        yield
    finally:
        limiter.release_on_behalf_of(borrower)
