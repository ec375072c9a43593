"""Calls of buildkitd with bytes, against a gRPC server in this process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import trio

from appliance.buildkit.channel import MAX_MESSAGE, BuildkitChannel
from appliance.buildkit.dial import ClientTls, UnixDial
from appliance.buildkit.errors import BuildkitError
from tests.appliance.buildkit.served import CONTROL, echo, fake_buildkitd, fake_channel
from tether.rpc.bridge import LoopThread
from tether.rpc.status import Code


async def test_a_call_carries_16_mib_in_both_directions() -> None:
    message = bytes(MAX_MESSAGE - 16)
    async with fake_channel({CONTROL + "Info": echo}) as channel:
        assert await channel.call(CONTROL + "Info", message) == message


async def test_a_failed_call_has_code_text_and_all_of_its_details() -> None:
    details = bytes(1 << 20)

    async def fail(requests: AsyncIterator[bytes], context: Any) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no \u00fc")

    async with fake_channel({CONTROL + "Solve": fail}) as channel:
        with pytest.raises(BuildkitError) as caught:
            await channel.call(CONTROL + "Solve", b"x")
        assert (caught.value.code, caught.value.text, caught.value.details) == (
            Code.FAILED_PRECONDITION,
            "no \u00fc",
            details,
        )
        with pytest.raises(BuildkitError) as unknown:
            await channel.call(CONTROL + "Unknown", b"")
        assert unknown.value.code is Code.UNIMPLEMENTED


async def test_a_stream_whose_reader_is_slow_is_read_ahead_up_to_a_bound() -> None:
    sent = 0

    async def many(requests: AsyncIterator[bytes], context: Any) -> None:
        nonlocal sent
        for _ in range(200):
            await context.write(bytes(256 << 10))
            sent += 1

    async with fake_channel({CONTROL + "Status": many}) as channel:
        async with channel.stream(CONTROL + "Status", b"") as stream:
            first = await stream.receive()
            await trio.sleep(0.2)
            assert sent < 40
            received = len(first)
            while batch := await stream.receive():
                received += len(batch)
            assert received == 200


async def test_leaving_a_stream_cancels_its_call() -> None:
    cancelled = trio.Event()
    token = trio.lowlevel.current_trio_token()

    async def endless(requests: AsyncIterator[bytes], context: Any) -> None:
        try:
            await context.write(b"first")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            token.run_sync_soon(cancelled.set)
            raise

    async with fake_channel({CONTROL + "Status": endless}) as channel:
        async with channel.stream(CONTROL + "Status", b"") as stream:
            assert await stream.receive() == [b"first"]
        with trio.fail_after(5):
            await cancelled.wait()


async def test_an_unreachable_server_fails_a_call_at_once() -> None:
    async with LoopThread.open() as loop, BuildkitChannel.open(loop, UnixDial("/nonexistent/socket")) as channel:
        with trio.fail_after(5), pytest.raises(BuildkitError) as caught:
            await channel.call(CONTROL + "Info", b"")
    assert caught.value.code is Code.UNAVAILABLE


async def test_a_server_that_ends_fails_the_streams_under_way() -> None:
    async def endless(requests: AsyncIterator[bytes], context: Any) -> None:
        await context.write(b"first")
        await asyncio.sleep(60)

    async with LoopThread.open() as loop:
        async with fake_buildkitd(loop, {CONTROL + "Status": endless}) as dial:
            channel = BuildkitChannel.open(loop, dial)
            opened = await channel.__aenter__()
            status = opened.stream(CONTROL + "Status", b"")
            stream = await status.__aenter__()
            assert await stream.receive() == [b"first"]
        with trio.fail_after(5), pytest.raises(BuildkitError) as caught:
            await stream.receive()
        assert caught.value.code is Code.UNAVAILABLE
        await status.__aexit__(None, None, None)
        await channel.__aexit__(None, None, None)


def test_the_key_of_a_target_is_not_printed() -> None:
    assert "SECRET" not in repr(ClientTls(b"ca", b"certificate", b"SECRET", "buildkitd"))
