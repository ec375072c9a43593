"""One epoll set for all connections, edge triggered."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from appliance.http import Readiness


@asynccontextmanager
async def _pair() -> AsyncIterator[tuple[Readiness, socket.socket, int]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    readiness = Readiness()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.run)
        with ours, theirs:
            readiness.add(theirs.fileno())
            yield readiness, ours, theirs.fileno()
            readiness.remove(theirs.fileno())
        nursery.cancel_scope.cancel()


async def _waits(readiness: Readiness, fd: int) -> bool:
    with trio.move_on_after(0.05) as scope:
        await readiness.wait(fd)
    return scope.cancelled_caught


async def test_a_wait_ends_when_there_is_something_to_read() -> None:
    async with _pair() as (readiness, ours, fd), trio.open_nursery() as nursery:
        nursery.start_soon(readiness.wait, fd)
        await trio.testing.wait_all_tasks_blocked()
        ours.send(b"x")


async def test_a_descriptor_stays_ready_until_it_is_drained() -> None:
    async with _pair() as (readiness, ours, fd):
        ours.send(b"xy")
        await readiness.wait(fd)
        os.read(fd, 1)
        await readiness.wait(fd)
        os.read(fd, 100)
        readiness.drained(fd)
        assert await _waits(readiness, fd)
        ours.send(b"z")
        await readiness.wait(fd)


async def test_bytes_that_came_between_two_waits_are_not_lost() -> None:
    async with _pair() as (readiness, ours, fd):
        readiness.drained(fd)
        ours.send(b"x")
        await trio.testing.wait_all_tasks_blocked()
        await readiness.wait(fd)


async def test_an_end_is_ready_for_ever() -> None:
    async with _pair() as (readiness, ours, fd):
        ours.send(b"last")
        ours.shutdown(socket.SHUT_WR)
        await readiness.wait(fd)
        os.read(fd, 100)
        # A short read: but the end came together with the bytes, and epoll does not report it again.
        readiness.drained(fd)
        await readiness.wait(fd)
        assert os.read(fd, 100) == b""


async def test_a_cancelled_wait_can_be_repeated() -> None:
    async with _pair() as (readiness, ours, fd):
        assert await _waits(readiness, fd)
        ours.send(b"x")
        await readiness.wait(fd)
