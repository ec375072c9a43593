"""Calls that pass from a build client to BuildKit, with a gRPC server of the test in BuildKit's place."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from appliance.buildkit.channel import BuildkitChannel
from appliance.buildkit.forward import CONTROL, PASSED, forward, refuse
from appliance.buildkit.server_call import ServerCall
from appliance.errors import InvalidParameter
from tests.appliance.buildkit.served import Behaviour, echo, fake_channel_here
from tests.appliance.buildkit.wire import client_of

STATUS = CONTROL + "Status"


def _run(
    behaviour: Behaviour,
    main: Callable[[grpc.aio.Channel], Awaitable[None]],
    serve: Callable[[ServerCall, BuildkitChannel], Awaitable[None]] = forward,
) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30), fake_channel_here({STATUS: behaviour}) as upstream:
            async with client_of(lambda call: serve(call, upstream)) as client:
                await main(client)

    asyncio.run(bounded())
    gc.collect()  # An error that nobody has retrieved is a warning, which fails the test.


def test_a_conversation_passes() -> None:
    async def main(client: grpc.aio.Channel) -> None:
        call = client.stream_stream(STATUS)()
        for size in (0, 1, 100_000, 5 << 20):
            await call.write(bytes(size))
            assert await call.read() == bytes(size)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

    _run(echo, main)


def test_metadata_deadline_and_trailers_pass() -> None:
    async def answer(requests: AsyncIterator[bytes], context: Any) -> None:
        given = dict(context.invocation_metadata())
        await context.send_initial_metadata((("first", given["name"]),))
        await context.write(b"answer")
        context.set_trailing_metadata((("seen-bin", given["value-bin"]), ("grpc-status-details-bin", bytes(100_000))))
        assert 3 < context.time_remaining() < 6
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "process \u201c/bin/sh\u201d did not complete")

    async def main(client: grpc.aio.Channel) -> None:
        call = client.unary_stream(STATUS)(b"", metadata=(("name", "x"), ("value-bin", b"\xff")), timeout=5)
        assert ("first", "x") in list(await call.initial_metadata())
        assert await call.read() == b"answer"
        assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert await call.details() == "process \u201c/bin/sh\u201d did not complete"
        trailers = dict(await call.trailing_metadata())
        assert trailers["seen-bin"] == b"\xff"
        assert len(trailers["grpc-status-details-bin"]) == 100_000

    _run(answer, main)


def test_a_client_that_cancels_cancels_the_call_of_buildkit() -> None:
    async def main(client: grpc.aio.Channel) -> None:
        call = client.unary_stream(STATUS)(b"")
        assert await call.read() == b"first"
        call.cancel()
        await asyncio.wait_for(cancelled.wait(), 5)

    cancelled = asyncio.Event()

    async def endless(requests: AsyncIterator[bytes], context: Any) -> None:
        try:
            await context.write(b"first")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    _run(endless, main)


def test_an_answer_before_the_client_has_sent_all() -> None:
    async def early(requests: AsyncIterator[bytes], context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such job")

    async def main(client: grpc.aio.Channel) -> None:
        call = client.stream_stream(STATUS)()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    _run(early, main)


def test_messages_may_be_changed() -> None:
    async def upper(call: ServerCall, upstream: BuildkitChannel) -> None:
        async def on_request(message: bytes) -> bytes:
            return message + b"!"

        await forward(call, upstream, on_request, bytes.upper)

    async def main(client: grpc.aio.Channel) -> None:
        assert await client.unary_unary(STATUS)(b"abc") == b"ABC!"

    _run(echo, main, upper)


def test_a_request_that_is_refused_ends_the_call() -> None:
    async def refusing(call: ServerCall, upstream: BuildkitChannel) -> None:
        async def on_request(message: bytes) -> bytes:
            raise InvalidParameter("not this")

        await forward(call, upstream, on_request)

    async def main(client: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.unary_unary(STATUS)(b"abc")
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "not this")

    _run(echo, main, refusing)


def test_an_answer_that_cannot_be_changed_ends_the_call() -> None:
    async def refusing(call: ServerCall, upstream: BuildkitChannel) -> None:
        def on_answer(message: bytes) -> bytes:
            raise InvalidParameter("not this")

        await forward(call, upstream, on_answer=on_answer)

    async def main(client: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.unary_unary(STATUS)(b"abc")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    _run(echo, main, refusing)


def test_a_channel_that_is_closed_ends_the_call() -> None:
    async def main(client: grpc.aio.Channel) -> None:
        call = client.unary_stream(STATUS)(b"")
        assert await call.read() == b"first"
        await closing[0]()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    closing: list[Callable[[], Awaitable[None]]] = []

    async def endless(requests: AsyncIterator[bytes], context: Any) -> None:
        await context.write(b"first")
        await asyncio.sleep(60)

    async def serve(call: ServerCall, upstream: BuildkitChannel) -> None:
        closing.append(upstream._channel.close)
        await forward(call, upstream)

    _run(endless, main, serve)


def test_what_does_not_pass_is_refused_in_the_words_of_go() -> None:
    async def serve(call: ServerCall, upstream: BuildkitChannel) -> None:
        refuse(call)

    async def main(client: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.unary_unary("/containerd.services.content.v1.Content/Write")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert caught.value.details() == "unknown method Write for service containerd.services.content.v1.Content"

    _run(echo, main, serve)
    assert not [path for path in PASSED if path.endswith(("Content/Write", "Content/Delete", "Control/Solve"))]
