"""The bytes of a client's session, as messages of Control/Session."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.forward import CONTROL
from appliance.buildkit.session_bridge import PIECE, bridge, session_metadata
from protos.buildkit.v1.control_pb2 import Bytes
from tests.appliance.buildkit.served import Behaviour, fake_channel_here

Main = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _run(behaviour: Behaviour, main: Main, early: bytes = b"") -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20), fake_channel_here({CONTROL + "Session": behaviour}) as channel:
            ours, theirs = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=theirs, limit=1 << 20)
            metadata = [("x-docker-expose-session-uuid", "u")]
            bridged = asyncio.create_task(bridge(reader, writer, early, metadata, channel))
            client_reader, client_writer = await asyncio.open_connection(sock=ours)
            try:
                await main(client_reader, client_writer)
            finally:
                client_writer.close()
            await bridged

    asyncio.run(bounded())


def test_bytes_pass_in_both_directions() -> None:
    async def upper(requests: AsyncIterator[bytes], context: Any) -> None:
        assert dict(context.invocation_metadata())["x-docker-expose-session-uuid"] == "u"
        async for message in requests:
            await context.write(Bytes(data=Bytes.FromString(message).data.upper()).SerializeToString())

    async def main(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        content = b"abcdefgh" * (3 << 17)
        writer.write(content)
        assert await reader.readexactly(5) == b"EARLY"
        assert await reader.readexactly(len(content)) == content.upper()

    _run(upper, main, b"early")


def test_the_end_of_the_client_cancels_the_session() -> None:
    ended = []

    async def collect(requests: AsyncIterator[bytes], context: Any) -> None:
        try:
            async for message in requests:
                await context.write(message)
        finally:
            ended.append(True)

    async def main(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        await reader.readexactly(1)

    _run(collect, main)
    assert ended


def test_the_end_of_the_session_closes_the_connection() -> None:
    async def leave(requests: AsyncIterator[bytes], context: Any) -> None:
        await context.write(Bytes(data=b"last").SerializeToString())

    async def main(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"last"

    _run(leave, main)


def test_a_session_with_bytes_that_are_no_message_ends() -> None:
    async def nonsense(requests: AsyncIterator[bytes], context: Any) -> None:
        await context.write(b"\xff\xff")
        await asyncio.sleep(60)

    async def main(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""

    _run(nonsense, main)


def test_a_side_that_does_not_read_stops_the_other() -> None:
    going = asyncio.Event()

    async def slow(requests: AsyncIterator[bytes], context: Any) -> None:
        async for _ in requests:
            await going.wait()

    async def main(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = 0
        with contextlib.suppress(asyncio.TimeoutError):
            while sent < 100 * PIECE:
                writer.write(bytes(256 << 10))
                sent += 256 << 10
                await asyncio.wait_for(writer.drain(), 0.2)
        going.set()
        # Our read-ahead, the buffers of the sockets and of grpcio, and a message at each end.
        assert sent < 12 * PIECE

    _run(slow, main)


def test_headers_of_a_session() -> None:
    headers = [
        ("X-Docker-Expose-Session-Uuid", "u"),
        ("X-Docker-Expose-Session-Grpc-Method", "/a/b"),
        ("X-Docker-Expose-Session-Grpc-Method", "/a/c, /a/d"),
        ("X-Docker-Expose-Session-Name", "x, y"),
        ("User-Agent", "x"),
    ]
    assert session_metadata(headers) == [
        ("x-docker-expose-session-uuid", "u"),
        ("x-docker-expose-session-grpc-method", "/a/b"),
        ("x-docker-expose-session-grpc-method", "/a/c"),
        ("x-docker-expose-session-grpc-method", "/a/d"),
        ("x-docker-expose-session-name", "x, y"),
    ]
    with pytest.raises(BuildkitError):
        session_metadata([("x-docker-expose-session-na\u00fcme", "x")])


def test_a_context_in_a_folder_with_a_name_that_is_not_ascii() -> None:
    # As the HTTP server decodes the bytes of the header: buildx 0.29 sends the name of the folder as it is.
    sent = "\u00fcber + 1".encode().decode("latin-1")
    assert session_metadata([("X-Docker-Expose-Session-Sharedkey", sent), ("x-docker-expose-session-name", sent)]) == [
        ("x-docker-expose-session-sharedkey-encoded", "1"),
        ("x-docker-expose-session-sharedkey", "%C3%BCber+%2B+1"),
        ("x-docker-expose-session-name", "%C3%BCber+%2B+1"),
    ]
