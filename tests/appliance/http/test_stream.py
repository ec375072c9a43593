"""A connection that was taken over."""

import socket
from collections.abc import Callable

import pytest
import trio

from appliance.http import HijackedStream
from appliance.http.body import Body, ChunkedBody, FixedBody


async def test_early_bytes_come_first_in_the_sizes_that_are_asked_for() -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        stream = HijackedStream(theirs, b"early")
        await ours.send(b"later")
        assert [await stream.receive(3), await stream.receive(3), await stream.receive()] == [b"ear", b"ly", b"later"]


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (lambda: FixedBody(7), b'{"a":1}'),
        (ChunkedBody, b'7\r\n{"a":1}\r\n0\r\n\r\n'),
    ],
)
@pytest.mark.parametrize("with_head", [0, 3, 100])
async def test_the_stream_begins_behind_the_body(body: Callable[[], Body], sent: bytes, with_head: int) -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        stream = HijackedStream(theirs, (sent + b"typed")[:with_head], body())
        for byte in (sent + b"typed")[with_head:]:
            await ours.send(bytes([byte]))
        ours.shutdown(socket.SHUT_WR)
        heard = b""
        while data := await stream.receive(3):
            heard += data
        assert heard == b"typed"


async def test_a_body_with_broken_chunks_ends_the_input() -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        stream = HijackedStream(theirs, b"nonsense\r\n", ChunkedBody())
        assert await stream.receive() == b""


async def test_each_side_has_an_end_of_its_own() -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        stream = HijackedStream(theirs)
        ours.shutdown(socket.SHUT_WR)
        assert await stream.receive() == b""
        await stream.send(b"still here")
        await stream.end()
        assert await ours.recv(100) == b"still here"
        assert await ours.recv(100) == b""
        await stream.end()  # idempotent


async def test_a_client_that_is_gone() -> None:
    ours, theirs = trio.socket.socketpair()
    with theirs:
        stream = HijackedStream(theirs)
        await stream.send(b"never read")
        ours.close()
        assert await stream.receive() == b""
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await stream.send(b"x" * 1_000_000)
        await stream.end()
