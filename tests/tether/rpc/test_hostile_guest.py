"""A guest that sends garbage or floods: calls fail in time, memory stays bounded, others are not held up."""

import contextlib
import os
import random
import resource
import socket
import struct
import threading
import zlib

import pytest
import trio

from tests.steps import cpu_of_steps, in_fresh_process
from tests.tether.rpc.echo import Record, echo_channel
from tether.link import MAX_PAYLOAD, Connection, Data, Frame, Kind
from tether.link.frame import MAGIC
from tether.rpc.bridge import LoopThread
from tether.rpc.client import Channel
from tether.rpc.grpcio_socket import GrpcioSocket
from tether.rpc.status import RpcError
from tether.transport import JunkAllowance, Line


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
                # vchd hangs up at some time.
                with contextlib.suppress(OSError):
                    while view:
                        view = view[await guest.send(view) :]

        async def read() -> None:
            with contextlib.suppress(OSError):
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


def _headers(length: int) -> bytes:
    """A sound header that announces a payload with a wrong CRC."""
    body = struct.pack(">4sBBHQQQQIIII", MAGIC, Kind.DATA, 0, 0, 1, 2, 0, 0, 0, length, 0xDEADBEEF, 0)[:52]
    return body + zlib.crc32(body).to_bytes(4, "big")


_JUNK = {
    "headers in the payload of headers": _headers(MAX_PAYLOAD),
    "headers of short payloads": _headers(1),
    "nothing but magics": MAGIC,
    "sound frames of no session": Frame(Kind.ACK, 7, 8).encode(),
    "hellos of many strangers": b"".join(Frame(Kind.HELLO, number, 0).encode() for number in range(1, 2000)),
    "zeros": bytes(64),
}


@pytest.mark.parametrize("junk", _JUNK.values(), ids=_JUNK.keys())
async def test_a_guest_that_floods_the_port_is_hung_up_and_no_step_is_long(junk: bytes) -> None:
    """The audit's case took 0.7 s of CPU for a MiB, in one step: `/_ping` waited 41 s."""
    here, there = socket.socketpair()
    block = junk * ((1 << 20) // len(junk) + 1)
    sent = 0

    def flood() -> None:
        nonlocal sent
        with contextlib.suppress(OSError):
            for _ in range(200):
                there.sendall(block)
                sent += len(block)
                # Take the answers to hellos, so that they do not fill the socket.
                with contextlib.suppress(BlockingIOError):
                    while there.recv(1 << 20, socket.MSG_DONTWAIT):
                        pass

    flooder = threading.Thread(target=flood)
    async with echo_channel() as (good, _), LoopThread.open() as loop:
        channel = Channel(loop, Line(here.detach()))
        with cpu_of_steps() as steps:
            flooder.start()
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:

                    async def others() -> None:
                        for _ in range(20):
                            await good.unary("/t/Unary", Record(offset=1), Record, timeout=20)

                    nursery.start_soon(others)
                    await channel.run()
    flooder.join()
    there.close()
    assert channel.fault == "the guest sends junk to its tether's port"
    assert channel.closed
    assert sent < 60 << 20
    assert steps.longest < 0.05, steps


async def test_a_line_that_loses_a_byte_stays_within_the_allowance() -> None:
    """The link repeats what came after the loss, and nobody hangs up."""
    link = Connection(lambda: 5, 0.0)
    peer = Connection(lambda: 6, 0.0)
    allowance = JunkAllowance(0.0)
    data = random.Random(3).randbytes(1 << 20)
    came, now, lost = b"", 0.0, False
    while len(came) < len(data):
        now += 0.1
        peer.receive_data(link.data_to_send(now), now)
        if not peer.send_room() or not came:
            peer.send(data[: peer.send_room()])
        piece = peer.data_to_send(now, 1 << 20)
        if len(piece) > 100_000 and not lost:
            lost, piece = True, piece[:50_000] + piece[50_001:]
        link.receive_data(piece, now)
        while (event := link.next_event()) is not None:
            if isinstance(event, Data):
                came += event.data
                link.acknowledge(event.session, len(event.data))
        assert not allowance.exceeded(link.useless, now)
    assert came[: len(data)] == data
    assert lost
    assert link.useless > 100_000


def wait_with_single_bytes() -> int:
    """A window of data in frames of one byte, and nobody who takes it. Returns how many bytes wait."""

    async def scenario() -> int:
        here, there = socket.socketpair()
        joined = GrpcioSocket(Line(here.detach()), 1 << 20, lambda: None)
        session = 5
        for _ in range(1 << 18):
            joined._on_event(Data(session, b"x"))
        joined.linked.line.close()
        there.close()
        return sum(len(data) for _, data in joined._incoming)

    return trio.run(scenario)


def test_single_bytes_that_wait_take_no_more_than_a_few_times_their_size() -> None:
    run = in_fresh_process(wait_with_single_bytes)
    assert run.result == 1 << 18
    assert run.grown < 6 << 20, run
