"""grpcio's client against the guest's server, over a link."""

import pytest
import trio

from tests.steps import cpu_of_steps
from tests.tether.rpc.echo import AttachRequest, AttachResponse, Record, echo_channel
from tether.rpc.status import Code, RpcError


async def test_unary() -> None:
    async with echo_channel() as (channel, _):
        for size in (0, 1, 20_000, 4_000_000):
            request = Record(offset=size, data=b"x" * size)
            assert await channel.unary("/t/Unary", request, Record, timeout=20) == request


async def test_a_message_over_the_limit_is_refused_and_the_channel_lives() -> None:
    async with echo_channel() as (channel, _):
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t/Unary", Record(data=bytes(5 << 20)), Record, timeout=20)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        await channel.unary("/t/Unary", Record(), Record, timeout=20)


async def test_failures_carry_code_text_and_details() -> None:
    async with echo_channel() as (channel, _):
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t/Unary", Record(data=b"fail"), Record)
        assert caught.value.code is Code.NOT_FOUND
        assert caught.value.message == "nothing: 100 %\nnewline é"
        detail = caught.value.detail(AttachRequest)
        assert detail is not None
        assert detail.id == "detail"
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t/Unary", Record(data=b"bug"), Record)
        assert caught.value.code is Code.INTERNAL
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t/Nothing", Record(), Record)
        assert caught.value.code is Code.UNIMPLEMENTED


@pytest.mark.parametrize("size", [2000, 60_000, 1_000_000])
async def test_failures_with_long_texts_stay_cheap(size: int) -> None:
    """By hpack's Huffman coder a text of 64 KiB took 0.3 s of the server's loop, and one of 440 KiB minutes."""
    async with echo_channel() as (channel, _):
        with cpu_of_steps() as steps, pytest.raises(RpcError) as caught:
            await channel.unary("/t/Unary", Record(data=b"long", offset=size), Record, timeout=20)
        assert caught.value.code is Code.NOT_FOUND
        assert caught.value.message == "é" * min(size, 2048)
        detail = caught.value.detail(AttachRequest)
        assert detail is not None
        assert detail.id == "x" * min(size, 4096)
        assert steps.longest < 0.05, steps
        await channel.unary("/t/Unary", Record(), Record, timeout=20)


async def test_deadline() -> None:
    async with echo_channel() as (channel, echo):
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t/Sleep", Record(offset=100), Record, timeout=0.2)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        with trio.fail_after(5):
            await echo.cancelled.wait()


async def test_cancelling_the_scope_cancels_the_handler() -> None:
    async with echo_channel() as (channel, echo):
        with trio.move_on_after(0.2) as scope:
            await channel.unary("/t/Sleep", Record(offset=100), Record)
        assert scope.cancelled_caught
        with trio.fail_after(5):
            await echo.cancelled.wait()


async def test_server_stream_in_order() -> None:
    async with echo_channel() as (channel, _):
        async with channel.stream("/t/Download", Record(offset=500, data=b"y" * 60_000), Record) as stream:
            offsets = []
            while batch := await stream.receive():
                offsets += [record.offset for record in batch]
        assert offsets == list(range(500))


async def test_a_reader_that_stops_stops_the_handler() -> None:
    async with echo_channel() as (channel, echo):
        async with channel.stream("/t/Download", Record(offset=100_000, data=b"y" * 60_000), Record) as stream:
            await stream.receive()
            before = -1
            while before != echo.sent:
                before = echo.sent
                await trio.sleep(0.3)
            assert before * 60_000 < 64 << 20
            # Others are not held up.
            await channel.unary("/t/Unary", Record(), Record, timeout=5)


async def test_both_ways() -> None:
    async with echo_channel() as (channel, echo):
        async with channel.stream("/t/Both", None, AttachResponse) as stream:
            total = 0
            async with trio.open_nursery() as nursery:

                async def feed() -> None:
                    for _ in range(300):
                        await stream.send(AttachRequest(data=b"z" * 50_000))
                    await stream.done_sending()

                nursery.start_soon(feed)
                while batch := await stream.receive():
                    total += sum(message.written for message in batch)
        assert total == 300 * 50_000 == echo.received


async def test_a_handler_that_does_not_read_stops_the_sender() -> None:
    async with echo_channel() as (channel, _), channel.stream("/t/Sink", None, AttachResponse) as stream:
        sent = 0
        with trio.move_on_after(1.5):
            while sent < 1000:
                await stream.send(AttachRequest(data=b"z" * 60_000))
                sent += 1
        assert sent * 60_000 < 32 << 20
        await channel.unary("/t/Unary", Record(), Record, timeout=5)


async def test_many_at_once() -> None:
    async with echo_channel() as (channel, _), trio.open_nursery() as nursery:
        for number in range(200):

            async def one(number: int = number) -> None:
                request = Record(offset=number)
                assert await channel.unary("/t/Unary", request, Record, timeout=20) == request

            nursery.start_soon(one)
