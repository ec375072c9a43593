"""Children of the tether: their work, their failures, their end. In processes of their own, since the reaper waits for all."""

import os
import time
from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.tether.isolated import run_isolated
from tether.agent.child import Pipe, child
from tether.agent.reaper import Reaper
from tether.rpc.status import Code, RpcError


def _with_reaper(run: Callable[[Reaper], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            reaper = Reaper()
            nursery.start_soon(reaper.run)
            with trio.fail_after(30):
                await run(reaper)
            nursery.cancel_scope.cancel()

    trio.run(main)


def _echo() -> None:
    data = os.urandom(3 << 20)

    def work(source: int, out: int) -> None:
        while piece := os.read(source, 1 << 20):
            os.write(out, piece)

    async def run(reaper: Reaper) -> None:
        async with child(reaper, work) as one:
            received = b""

            async def feed() -> None:
                assert await one.input.write(data)
                one.input.close()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed)
                while piece := await one.output.read():
                    received += piece
            await one.finish()
            assert await one.wait() == 0
            assert received == data

    _with_reaper(run)


def test_a_child_reads_and_writes() -> None:
    run_isolated(_echo)


def _failures() -> None:
    def refused(_: int, __: int) -> None:
        raise RpcError(Code.OUT_OF_RANGE, "not like this")

    def missing(_: int, __: int) -> None:
        os.stat("/no/such/file")

    def broken(_: int, __: int) -> None:
        raise ValueError("a defect")

    def killed(_: int, __: int) -> None:
        os.kill(os.getpid(), 9)

    expected = (
        (refused, Code.OUT_OF_RANGE, "not like this"),
        (missing, Code.NOT_FOUND, "/no/such/file: no such file or directory"),
        (broken, Code.INTERNAL, "ValueError: a defect"),
        (killed, Code.ABORTED, "the child ended before it was done"),
    )

    async def run(reaper: Reaper) -> None:
        for work, code, text in expected:
            async with child(reaper, work) as one:
                with pytest.raises(RpcError) as caught:
                    await one.finish()
                assert (caught.value.code, caught.value.message) == (code, text)

    _with_reaper(run)


def test_a_failure_names_its_reason() -> None:
    run_isolated(_failures)


def _left() -> None:
    async def run(reaper: Reaper) -> None:
        async with child(reaper, lambda _, __: time.sleep(1000)) as one:
            pid = one.pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    _with_reaper(run)


def test_leaving_the_block_kills_the_child() -> None:
    run_isolated(_left)


def _descriptors() -> None:
    kept, _ = os.pipe()
    os.set_inheritable(kept, True)

    def work(_: int, out: int) -> None:
        os.write(out, repr(sorted(int(name) for name in os.listdir("/proc/self/fd"))).encode())

    async def run(reaper: Reaper) -> None:
        async with child(reaper, work) as one:
            # The fourth is listdir's own.
            assert await one.output.read() == b"[0, 1, 2, 3]"

    _with_reaper(run)


def test_a_child_has_no_descriptor_of_the_tether() -> None:
    run_isolated(_descriptors)


async def test_a_pipe_whose_reader_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    pipe = Pipe(writing)
    assert not await pipe.write(b"x")
    pipe.close()
    pipe.close()
