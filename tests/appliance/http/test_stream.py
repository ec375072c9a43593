"""A connection that was taken over."""

import socket

import pytest
import trio

from appliance.http import HijackedStream


async def test_early_bytes_come_first_in_the_sizes_that_are_asked_for() -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        stream = HijackedStream(theirs, b"early")
        await ours.send(b"later")
        assert [await stream.receive(3), await stream.receive(3), await stream.receive()] == [b"ear", b"ly", b"later"]


async def test_each_side_has_an_end_of_its_own() -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        stream = HijackedStream(theirs, b"")
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
        stream = HijackedStream(theirs, b"")
        await stream.send(b"never read")
        ours.close()
        assert await stream.receive() == b""
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await stream.send(b"x" * 1_000_000)
        await stream.end()
