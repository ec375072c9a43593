"""Many calls and much data against grpcio's client, without a stall. VCH_CALLS and VCH_MEGABYTES make it longer."""

import os

import trio

from tests.tether.rpc.echo import AttachRequest, AttachResponse, Record, echo_channel

CALLS = int(os.environ.get("VCH_CALLS", "500"))
MEGABYTES = int(os.environ.get("VCH_MEGABYTES", "32"))
_PIECE = bytes(range(256)) * 240


async def test_many_calls() -> None:
    async with echo_channel() as (channel, _):
        for number in range(CALLS):
            with trio.fail_after(30):
                answer = await channel.unary("/t/Unary", Record(offset=number), Record)
            assert answer.offset == number


async def test_much_data_down() -> None:
    count = MEGABYTES * 1_000_000 // len(_PIECE)
    async with echo_channel() as (channel, _):
        async with channel.stream("/t/Download", Record(offset=count, data=_PIECE), Record) as stream:
            expected = 0
            while True:
                with trio.fail_after(30):
                    batch = await stream.receive()
                if not batch:
                    break
                for record in batch:
                    assert (record.offset, record.data) == (expected, _PIECE)
                    expected += 1
        assert expected == count


async def test_much_data_up() -> None:
    count = MEGABYTES * 1_000_000 // len(_PIECE)
    async with echo_channel() as (channel, echo):
        async with channel.stream("/t/Both", None, AttachResponse) as stream, trio.open_nursery() as nursery:

            async def feed() -> None:
                for _ in range(count):
                    with trio.fail_after(30):
                        await stream.send(AttachRequest(data=_PIECE))
                await stream.done_sending()

            nursery.start_soon(feed)
            while await stream.receive():
                pass
        assert echo.received == count * len(_PIECE)
