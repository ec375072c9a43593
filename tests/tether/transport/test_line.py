"""Lines: bounded writes that never block, and reads up to the end."""

import os
import socket

import pytest
import trio
import trio.testing

from tether.transport.line import Line, LineClosed


def _pair() -> tuple[Line, Line]:
    one, other = socket.socketpair()
    return Line(one.detach()), Line(other.detach())


async def test_a_full_line_takes_a_part_and_the_rest_later() -> None:
    one, other = _pair()
    data = os.urandom(4 << 20)
    taken = one.try_write(data)
    assert 0 < taken < len(data)
    assert one.try_write(data) == 0
    assert not one.behind

    async def write() -> None:
        sent = taken
        while sent < len(data):
            await one.wait_writable()
            sent += one.try_write(memoryview(data)[sent:])
        one.close()

    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while len(received) < len(data):
            received += await other.read()
    assert received == data
    with pytest.raises(LineClosed, match="end of file"):
        await other.read()
    other.close()


async def test_a_write_to_a_closed_peer() -> None:
    one, other = _pair()
    other.close()
    with pytest.raises(LineClosed):
        one.try_write(b"x")
    one.close()
    one.close()


async def test_closing_wakes_the_reader() -> None:
    one, other = _pair()
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await one.read()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        one.close()
    other.close()
