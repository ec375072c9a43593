"""Stdin reaches a process once and in order, waits for a slow process, and ends with it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from trio.testing import wait_all_tasks_blocked

from appliance.guest import GuestSession, StdinPipe
from protos.tether.v1 import stdio_pb2
from tests.appliance.guest.served import served
from tether.agent.stdio import Spool, Stdin, StdioService

PROCESS = "one"


@dataclass
class _Reader:
    """A process that reads its stdin when a test says so."""

    stdin: Stdin
    fd: int

    @classmethod
    def make(cls) -> "_Reader":
        fd, writing = os.pipe()
        os.set_blocking(fd, False)
        return cls(Stdin(writing), fd)

    async def read(self, size: int) -> bytes:
        """Read so many bytes; fewer at the end of file."""
        data = b""
        while len(data) < size:
            try:
                piece = os.read(self.fd, size - len(data))
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.fd)
                continue
            if not piece:
                break
            data += piece
        return data

    def end(self) -> None:
        """The process closes its stdin."""
        if self.fd >= 0:
            trio.lowlevel.notify_closing(self.fd)
            os.close(self.fd)
            self.fd = -1


@asynccontextmanager
async def _running() -> AsyncIterator[tuple[StdinPipe, _Reader, GuestSession]]:
    reader = _Reader.make()
    service = StdioService(lambda _: (reader.stdin, Spool(1 << 20, False)))
    async with served((stdio_pb2.DESCRIPTOR, "Stdio", service)) as session, trio.open_nursery() as nursery:
        pipe = StdinPipe()
        nursery.start_soon(pipe.run, session, PROCESS)
        yield pipe, reader, session
        nursery.cancel_scope.cancel()
    reader.stdin.close()
    reader.end()


async def test_data_and_the_end_of_file_arrive() -> None:
    async with _running() as (pipe, reader, _):
        assert await pipe.write(b"hello ")
        assert await pipe.write(b"world")
        pipe.close()
        assert await reader.read(100) == b"hello world"


async def test_a_large_write_arrives_in_order() -> None:
    data = os.urandom(3 << 20)
    async with _running() as (pipe, reader, _), trio.open_nursery() as nursery:

        async def write() -> None:
            assert await pipe.write(data)
            pipe.close()

        nursery.start_soon(write)
        assert await reader.read(len(data) + 1) == data


async def test_a_process_that_does_not_read_holds_the_client_up() -> None:
    written = 0
    async with _running() as (pipe, reader, _), trio.open_nursery() as nursery:

        async def write() -> None:
            nonlocal written
            for _ in range(64):
                await pipe.write(bytes(1 << 20))
                written += 1 << 20

        nursery.start_soon(write)
        while reader.stdin.written < 65536:
            await trio.lowlevel.checkpoint()
        before = -1
        while before != written:
            before = written
            await wait_all_tasks_blocked(0.05)
        # A bound for clients that send more than a process reads.
        assert written < 16 << 20
        assert len(await reader.read(8 << 20)) == 8 << 20
        nursery.cancel_scope.cancel()


async def test_a_process_that_reads_no_more_fails_writes() -> None:
    async with _running() as (pipe, reader, _):
        assert await pipe.write(b"x")
        assert await reader.read(1) == b"x"
        reader.end()
        while await pipe.write(bytes(1000)):
            pass
        assert not await pipe.write(b"more")


async def test_a_reset_neither_loses_nor_repeats_bytes() -> None:
    data = os.urandom(1 << 20)
    async with _running() as (pipe, reader, session), trio.open_nursery() as nursery:

        async def write() -> None:
            assert await pipe.write(data)
            pipe.close()

        nursery.start_soon(write)
        found = await reader.read(100_000)
        session.reset_link()
        found += await reader.read(500_000)
        session.reset_link()
        found += await reader.read(len(data))
        assert found == data
    assert session.sessions >= 2


async def test_a_new_daemon_continues_where_the_process_is() -> None:
    """The guest counts the bytes of the earlier daemon too."""
    reader = _Reader.make()
    assert await reader.stdin.write(b"earlier ")
    service = StdioService(lambda _: (reader.stdin, Spool(1 << 20, False)))
    async with served((stdio_pb2.DESCRIPTOR, "Stdio", service)) as session, trio.open_nursery() as nursery:
        pipe = StdinPipe()
        nursery.start_soon(pipe.run, session, PROCESS)
        await pipe.write(b"later")
        pipe.close()
        assert await reader.read(100) == b"earlier later"
        nursery.cancel_scope.cancel()
    reader.end()


async def test_the_next_run_begins_with_an_empty_pipe() -> None:
    pipe = StdinPipe()
    async with trio.open_nursery() as nursery:
        results: list[bool] = []

        async def write() -> None:
            # More than waits without a reader.
            results.append(await pipe.write(bytes(4 << 20)))

        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        assert results == []
        pipe.renew()
    assert results == [False]
    reader = _Reader.make()
    service = StdioService(lambda _: (reader.stdin, Spool(1 << 20, False)))
    async with served((stdio_pb2.DESCRIPTOR, "Stdio", service)) as session, trio.open_nursery() as nursery:
        nursery.start_soon(pipe.run, session, PROCESS)
        assert await pipe.write(b"second")
        pipe.close()
        assert not await pipe.write(b"after the end")
        assert await reader.read(100) == b"second"
        nursery.cancel_scope.cancel()
    reader.end()
