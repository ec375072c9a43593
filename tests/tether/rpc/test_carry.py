"""One connection over a call, with the call in memory. The whole way is in tests/appliance/guest/test_tunnel.py."""

import pytest
import trio
from trio.testing import memory_stream_pair

from protos.tether.v1.tunnel_pb2 import Segment
from tether.rpc.carry import PIECE, WINDOW, carry
from tether.rpc.status import RpcError


class _Pipe:
    """One end of a call: `sent` collects what this end sends."""

    def __init__(self) -> None:
        self.sent: list[Segment] = []
        self.to_receive, self._receiving = trio.open_memory_channel[Segment](100)

    async def send(self, segment: Segment) -> None:
        self.sent.append(segment)
        await trio.lowlevel.checkpoint()

    async def receive(self) -> list[Segment]:
        try:
            return [await self._receiving.receive()]
        except trio.EndOfChannel:
            return []


async def test_what_is_under_way_is_bounded_by_credit(autojump_clock: trio.testing.MockClock) -> None:
    near, far = memory_stream_pair()
    pipe = _Pipe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, near, pipe, trio.CapacityLimiter(1))
        nursery.start_soon(far.send_all, bytes(WINDOW * 2))
        await trio.sleep(1)
        assert sum(len(segment.data) for segment in pipe.sent) == WINDOW
        assert max(len(segment.data) for segment in pipe.sent) <= PIECE
        await pipe.to_receive.send(Segment(taken=1000))
        await trio.sleep(1)
        assert sum(len(segment.data) for segment in pipe.sent) == WINDOW + 1000
        nursery.cancel_scope.cancel()


async def test_credit_follows_the_reader(autojump_clock: trio.testing.MockClock) -> None:
    near, far = memory_stream_pair()
    pipe = _Pipe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, near, pipe, trio.CapacityLimiter(1))
        for _ in range(WINDOW // PIECE):
            await pipe.to_receive.send(Segment(data=bytes(PIECE)))
        await pipe.to_receive.send(Segment(end=True))
        received = 0
        while data := await far.receive_some(1000):
            received += len(data)
        assert received == WINDOW
        # A stream of this process reports its end alone.
        await far.send_eof()
    assert [segment.taken for segment in pipe.sent if segment.taken] == [PIECE]
    assert pipe.sent[-1] == Segment(end=True)


@pytest.mark.parametrize(
    "wrong",
    [
        [Segment(data=bytes(WINDOW + 1))],
        [Segment(taken=1)],
        [Segment(end=True), Segment(data=b"more")],
    ],
    ids=["too much data", "too much credit", "data after the end"],
)
async def test_the_other_end_breaks_the_protocol(wrong: list[Segment]) -> None:
    near, far = memory_stream_pair()
    pipe = _Pipe()
    for segment in wrong:
        await pipe.to_receive.send(segment)
    with pytest.raises(RpcError, match="breaks the protocol"):
        await carry(near, pipe, trio.CapacityLimiter(1))
    with pytest.raises(trio.BrokenResourceError):
        await far.send_all(b"x")


async def test_the_end_of_the_call_closes_the_socket_after_its_data() -> None:
    near, far = memory_stream_pair()
    pipe = _Pipe()
    await pipe.to_receive.send(Segment(data=b"the last", closed=True))
    pipe.to_receive.close()
    await carry(near, pipe, trio.CapacityLimiter(1))
    assert await far.receive_some() == b"the last"
    assert await far.receive_some() == b""
