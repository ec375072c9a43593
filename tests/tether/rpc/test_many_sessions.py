"""Many idle sessions: no thread of their own, little memory, all still answer."""

import os
import socket
from pathlib import Path

import trio

from tests.tether.rpc.echo import Echo, Record, serve
from tether.rpc.bridge import LoopThread
from tether.rpc.client import Channel
from tether.transport import Line

SESSIONS = 150


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


async def test_idle_sessions_cost_no_thread_each() -> None:
    async with LoopThread.open() as loop, trio.open_nursery() as nursery:
        channels: list[Channel] = []

        async def add(count: int) -> None:
            for _ in range(count):
                here, there = socket.socketpair()
                nursery.start_soon(serve, Line(there.detach()), Echo().methods())
                channel = Channel(loop, Line(here.detach()))
                nursery.start_soon(channel.run)
                channels.append(channel)
            for number, channel in enumerate(channels):
                answer = await channel.unary("/t/Unary", Record(offset=number), Record, timeout=60)
                assert answer.offset == number

        with trio.fail_after(120):
            await add(10)
            few = _threads()
            await add(SESSIONS - 10)
        # grpcio's own pool may grow with the cores, never with the sessions.
        assert _threads() - few <= 8 + 2 * (os.cpu_count() or 1)
        nursery.cancel_scope.cancel()
