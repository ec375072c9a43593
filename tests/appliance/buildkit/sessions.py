"""The end of a session that buildkitd has: it calls the services of the client."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from protos.buildkit.v1.control_pb2 import Bytes

Caller = Callable[[grpc.aio.Channel, dict[str, list[str]]], Awaitable[None]]
"""What buildkitd does with a session, whose metadata it gets."""


def session_behaviour(caller: Caller) -> Callable[[AsyncIterator[bytes], Any], Awaitable[None]]:
    """A behaviour of Control/Session for `served.fake_channel`. The session ends when the caller returns."""

    async def serve(requests: AsyncIterator[bytes], context: Any) -> None:
        metadata: dict[str, list[str]] = {}
        for name, value in context.invocation_metadata():
            metadata.setdefault(name, []).append(value)
        async with _client(requests, context) as channel:
            await caller(channel, metadata)

    return serve


@asynccontextmanager
async def _client(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[grpc.aio.Channel]:
    """grpcio's client, whose connection is carried in the messages of the call."""
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accepted.put((reader, writer))

    async with contextlib.AsyncExitStack() as stack:
        path = str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "socket")
        server = await asyncio.start_unix_server(accept, path)
        stack.callback(server.close)
        channel = grpc.aio.insecure_channel(f"unix:{path}")
        stack.push_async_callback(channel.close)
        channel.get_state(try_to_connect=True)
        reader, writer = await accepted.get()
        stack.callback(writer.close)
        async with asyncio.TaskGroup() as group:
            pumps = [
                group.create_task(_to_session(reader, context)),
                group.create_task(_from_session(requests, writer)),
            ]
            try:
                yield channel
            finally:
                for pump in pumps:
                    pump.cancel()


async def _to_session(reader: asyncio.StreamReader, context: Any) -> None:
    while data := await reader.read(1 << 16):
        await context.write(Bytes(data=data).SerializeToString())


async def _from_session(requests: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
    async for message in requests:
        with contextlib.suppress(OSError):
            writer.write(Bytes.FromString(message).data)
            await writer.drain()
