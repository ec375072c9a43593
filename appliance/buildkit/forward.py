"""Calls of build clients that BuildKit answers: bytes go to it and come back, with metadata, deadline, cancellation and trailers."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from appliance.buildkit.channel import BuildkitChannel, RawCall
from appliance.buildkit.door_names import cut_names
from appliance.buildkit.server_call import ServerCall
from appliance.buildkit.shown_names import show_error
from appliance.errors import VchError
from tether.rpc.status import Code

CONTROL = "/moby.buildkit.v1.Control/"
_BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"

# What passes unchanged. All else is UNIMPLEMENTED: writing to BuildKit's content store, reflection, methods of later versions.
PASSED = frozenset(
    [CONTROL + name for name in ("DiskUsage", "ListenBuildHistory", "Prune", "Session", "Status", "UpdateBuildHistory")]
    + [
        _BRIDGE + name
        for name in (
            "Evaluate",
            "ExecProcess",
            "Inputs",
            "NewContainer",
            "Ping",
            "ReadDir",
            "ReadDirContainer",
            "ReadFile",
            "ReadFileContainer",
            "ReleaseContainer",
            "ResolveImageConfig",
            "ResolveSourceMeta",
            "Return",
            "Solve",
            "StatFile",
            "StatFileContainer",
            "Warn",
        )
    ]
    + [
        "/containerd.services.content.v1.Content/Info",
        "/containerd.services.content.v1.Content/Read",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    ]
)


def refuse(call: ServerCall) -> None:
    """End a call whose method nobody serves, in the words of Go's gRPC."""
    service, _, method = call.path[1:].rpartition("/")
    call.finish(Code.UNIMPLEMENTED, f"unknown method {method} for service {service}"[:1000])


OnRequest = Callable[[bytes], Awaitable[bytes]]
OnAnswer = Callable[[bytes], bytes]


async def _pass(request: bytes) -> bytes:
    return request


def _unchanged(answer: bytes) -> bytes:
    return answer


async def forward(
    call: ServerCall, channel: BuildkitChannel, on_request: OnRequest = _pass, on_answer: OnAnswer = _unchanged
) -> None:
    """Carry a call of any kind to its end. `on_request` changes each message of the client, `on_answer` each of BuildKit.

    A VchError of either ends the call. The texts of errors have the users' names of images. Cancelling this cancels the call of BuildKit.
    """
    upstream = channel.start(call.path, call.metadata(), call.timeout())
    requests = asyncio.create_task(_requests(call, upstream, on_request))
    try:
        await _answers(call, upstream, requests, on_answer)
    finally:
        upstream.cancel()
        requests.cancel()
        await asyncio.gather(requests, return_exceptions=True)


async def _requests(call: ServerCall, upstream: RawCall, on_request: OnRequest) -> None:
    try:
        while (message := await call.receive()) is not None:
            await upstream.write(await on_request(message))
        await upstream.done_writing()
    except VchError:
        # A fault of the client: the call ends with it.
        upstream.cancel()
        raise
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        # The call has ended: `_answers` sees how.
        pass


async def _answers(call: ServerCall, upstream: RawCall, requests: "asyncio.Task[None]", on_answer: OnAnswer) -> None:
    try:
        call.start(await upstream.initial_metadata())
        while (message := await upstream.read()) is not grpc.aio.EOF:
            await call.send(on_answer(message))
        code, text, trailers = await upstream.code(), await upstream.details(), await upstream.trailing_metadata()
    except grpc.aio.AioRpcError as error:
        code, text, trailers = error.code(), error.details(), error.trailing_metadata()
    except asyncio.CancelledError:
        # Of this task, or of the call by `_requests`.
        if requests.done() and not requests.cancelled() and (fault := requests.exception()) is not None:
            raise fault from None
        raise
    if requests.done() and not requests.cancelled() and (fault := requests.exception()) is not None:
        raise fault
    shown = [(name, show_error(value) if isinstance(value, bytes) else value) for name, value in trailers or ()]
    call.finish(Code(code.value[0]), cut_names(text or ""), shown)
