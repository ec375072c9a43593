"""A guest that sends garbage or floods: calls fail in time, memory stays bounded, others are not held up."""

import os
import random
import resource
import socket

import pytest
import trio

from tests.tether.rpc.echo import Record, echo_channel
from tether.link import Connection, Frame, Kind
from tether.rpc.bridge import LoopThread
from tether.rpc.client import Channel
from tether.rpc.status import RpcError
from tether.transport import Line


async def _hostile(send: bytes, times: int) -> None:
    here, there = socket.socketpair()
    guest = trio.socket.from_stdlib_socket(there)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with LoopThread.open() as loop, trio.open_nursery() as nursery:
        channel = Channel(loop, Line(here.detach()))
        nursery.start_soon(channel.run)

        async def flood() -> None:
            for _ in range(times):
                view = memoryview(send)
                while view:
                    view = view[await guest.send(view) :]

        async def read() -> None:
            while await guest.recv(1 << 16):
                pass

        nursery.start_soon(read)
        with trio.move_on_after(20):
            await flood()
        with pytest.raises(RpcError):
            await channel.unary("/t/Unary", Record(), Record, timeout=1)
        nursery.cancel_scope.cancel()
    guest.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


async def test_random_bytes() -> None:
    await _hostile(random.Random(1).randbytes(1 << 20), 16)


async def test_a_flood_of_hellos() -> None:
    source = random.Random(2)
    await _hostile(b"".join(Frame(Kind.HELLO, source.getrandbits(64) | 1, 0).encode() for _ in range(2000)), 20)


async def test_an_open_link_full_of_bytes_that_are_not_http2() -> None:
    """The handshake is right, then data frames of noise: grpcio gives the connection up, the call fails in time."""
    here, there = socket.socketpair()
    guest = trio.socket.from_stdlib_socket(there)
    link = Connection(lambda: random.getrandbits(64) | 1, trio.current_time())
    async with LoopThread.open() as loop, trio.open_nursery() as nursery:
        channel = Channel(loop, Line(here.detach()))
        nursery.start_soon(channel.run)

        async def babble() -> None:
            while True:
                link.send(os.urandom(30_000))
                data = link.data_to_send(trio.current_time())
                if data:
                    await guest.send(data)
                with trio.move_on_after(0.02):
                    link.receive_data(await guest.recv(1 << 16), trio.current_time())
                while link.next_event() is not None:
                    pass

        nursery.start_soon(babble)
        with pytest.raises(RpcError):
            await channel.unary("/t/Unary", Record(), Record, timeout=2)
        nursery.cancel_scope.cancel()
    guest.close()


async def test_one_hostile_guest_does_not_hold_up_another() -> None:
    here, there = socket.socketpair()
    async with echo_channel() as (good, _), LoopThread.open() as loop, trio.open_nursery() as nursery:
        bad = Channel(loop, Line(here.detach()))
        nursery.start_soon(bad.run)
        there.sendall(os.urandom(100_000))
        for _ in range(20):
            await good.unary("/t/Unary", Record(offset=1), Record, timeout=5)
        nursery.cancel_scope.cancel()
    there.close()
