"""Both ends of gRPC connections on asyncio, for tests that run with `asyncio.run`."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from hpack import Encoder

from appliance.buildkit.budget import ByteBudget
from appliance.buildkit.channel import _OPTIONS
from appliance.buildkit.grpc_connection import GrpcConnection, Serve
from tether.rpc.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    U32,
    frame_header,
)


@contextlib.asynccontextmanager
async def listening(serve: Serve, budget: ByteBudget | None = None) -> AsyncIterator[str]:
    """The path of a unix socket whose connections are served."""
    shared = budget or ByteBudget()
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(GrpcConnection(reader, writer, serve, shared).run()))

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "socket")
        server = await asyncio.start_unix_server(connected, path)
        try:
            yield path
        finally:
            server.close()
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)


@contextlib.asynccontextmanager
async def client_of(serve: Serve, budget: ByteBudget | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """grpcio's client of a served connection; messages are bytes."""
    async with listening(serve, budget) as path:
        channel = grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS)
        try:
            yield channel
        finally:
            await channel.close()


class RawClient:
    """A client that writes frames as it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._encoder = Encoder()
        self.send(PREFACE, frame(SETTINGS, 0, 0))

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    def request(self, stream: int, path: str = "/s/m", *, end: bool = False, extra: Sequence[Any] = ()) -> bytes:
        """A HEADERS frame that opens a stream."""
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            ("content-type", "application/grpc"),
            *extra,
        ]
        flags = END_HEADERS | (END_STREAM if end else 0)
        return frame(HEADERS, flags, stream, self._encoder.encode(headers))

    async def ended(self) -> bytes:
        """All that the server sends until it closes the connection."""
        async with asyncio.timeout(10):
            return await self.reader.read()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame of HTTP/2."""
    return frame_header(len(payload), kind, flags, stream) + payload


def data(stream: int, payload: bytes) -> bytes:
    """DATA frames of at most 16 KiB."""
    return b"".join(frame(DATA, 0, stream, payload[at : at + 16384]) for at in range(0, len(payload), 16384))


def reset(stream: int) -> bytes:
    """RST_STREAM with CANCEL."""
    return frame(RST_STREAM, 0, stream, U32.pack(8))


@contextlib.asynccontextmanager
async def raw_client(path: str) -> AsyncIterator[RawClient]:
    """A connection to `listening`."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@dataclass
class Callbacks:
    """The longest step of an asyncio loop, in seconds of CPU time of its thread."""

    longest: float = 0.0


@contextlib.contextmanager
def cpu_of_callbacks() -> Iterator[Callbacks]:
    """As tests.steps.cpu_of_steps, for the asyncio loop of this thread."""
    found = Callbacks()
    handle: Any = asyncio.events.Handle
    run = handle._run

    def measured(self: asyncio.Handle) -> None:
        begin = time.thread_time()
        run(self)
        found.longest = max(found.longest, time.thread_time() - begin)

    handle._run = measured
    try:
        yield found
    finally:
        handle._run = run
