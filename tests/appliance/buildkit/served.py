"""A gRPC server of a test in place of buildkitd, in this process: raw bytes, a function for each path."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import trio

from appliance.buildkit.channel import MAX_MESSAGE, BuildkitChannel, connect
from appliance.buildkit.dial import Target, UnixDial
from tether.rpc.bridge import LoopThread

CONTROL = "/moby.buildkit.v1.Control/"
# Receives the requests and grpcio's context, and sends answers by the context.
Behaviour = Callable[[AsyncIterator[bytes], Any], Awaitable[None]]


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, behaviours: dict[str, Behaviour]) -> None:
        self._behaviours = behaviours

    def service(self, details: Any) -> Any:
        behaviour = self._behaviours.get(details.method)
        return behaviour and grpc.stream_stream_rpc_method_handler(behaviour)


async def echo(requests: AsyncIterator[bytes], context: Any) -> None:
    """Answer each message with itself."""
    async for message in requests:
        await context.write(message)


async def _start(
    address: str, behaviours: dict[str, Behaviour], credentials: grpc.ServerCredentials | None = None
) -> grpc.aio.Server:
    sizes = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
    wide = [("grpc.max_metadata_size", 16 << 20), ("grpc.absolute_max_metadata_size", 16 << 20)]
    server = grpc.aio.server(handlers=[_Handler(behaviours)], options=[*sizes, *wide])
    if credentials is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(address, credentials)
    await server.start()
    return server


@asynccontextmanager
async def fake_buildkitd(loop: LoopThread, behaviours: dict[str, Behaviour]) -> AsyncIterator[UnixDial]:
    """A server with these methods; all others are UNIMPLEMENTED."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "socket")
        server = await loop.run(lambda: _start(f"unix:{path}", behaviours))
        try:
            yield UnixDial(path)
        finally:
            with trio.CancelScope(shield=True):
                await loop.run(lambda: server.stop(0))


@asynccontextmanager
async def fake_buildkitd_by_tls(
    loop: LoopThread, behaviours: dict[str, Behaviour], port: int, authority: bytes, certificate: bytes, key: bytes
) -> AsyncIterator[None]:
    """The same at a port of loopback, by mutual TLS; the files are PEM."""
    credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    server = await loop.run(lambda: _start(f"127.0.0.1:{port}", behaviours, credentials))
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await loop.run(lambda: server.stop(0))


@asynccontextmanager
async def fake_channel(behaviours: dict[str, Behaviour]) -> AsyncIterator[BuildkitChannel]:
    """A channel to such a server, on a build loop of its own."""
    async with LoopThread.open() as loop, fake_buildkitd(loop, behaviours) as dial:
        async with BuildkitChannel.open(loop, dial) as channel:
            yield channel


@asynccontextmanager
async def fake_channel_here(behaviours: dict[str, Behaviour]) -> AsyncIterator[BuildkitChannel]:
    """The same on the running asyncio loop; without its methods for trio."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "socket")
        server = await _start(f"unix:{path}", behaviours)
        channel = await connect(Target(f"unix:{path}"))
        nowhere: Any = None
        try:
            yield BuildkitChannel(nowhere, channel)
        finally:
            await channel.close()
            await server.stop(0)
