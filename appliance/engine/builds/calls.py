"""Calls of build clients on /grpc, by their method. All of it runs on the build loop, and asks trio for what belongs to the engine."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.forward import CONTROL, PASSED, OnAnswer, OnRequest, forward, refuse
from appliance.buildkit.portal import TrioPortal
from appliance.buildkit.server_call import ServerCall
from appliance.buildkit.shown_names import show_history, show_progress, shown_error, status_reference
from appliance.engine.builds.contracts import Builders
from appliance.engine.builds.solve import SOLVE, SolveService
from tether.rpc.status import Code

_LIST_WORKERS = f"{CONTROL}ListWorkers"
_INFO = f"{CONTROL}Info"
_STATUS = f"{CONTROL}Status"
_HISTORY = f"{CONTROL}ListenBuildHistory"
_FRONTEND = "/moby.buildkit.v1.frontend.LLBBridge/Solve"
# buildx names the Solve to which a call of the frontend belongs (client/buildid of moby/buildkit).
_BUILD_ID = "buildkit-controlapi-buildid"
# Larger requests are changed in a thread.
_LARGE = 256 << 10


class KnownWorkers(Protocol):
    """What buildkitd answered when it ran last, or would answer. Clients ask this before each build, and for lists of builders."""

    def workers(self) -> bytes:
        """The answer of ListWorkers, as clients get it."""

    def info(self) -> bytes:
        """The answer of Info."""


class BuildCalls:
    """Serves calls. `portal` leads into trio."""

    def __init__(self, portal: TrioPortal, builders: Builders, solves: SolveService, workers: KnownWorkers) -> None:
        self._portal = portal
        self._builders = builders
        self._solves = solves
        self._workers = workers

    async def serve(self, call: ServerCall) -> None:
        """Serve one call to its end. A VchError is the call's status."""
        match call.path:
            case path if path == SOLVE:
                await self._solve(call)
            case path if path == _LIST_WORKERS:
                await _answer(call, self._workers.workers)
            case path if path == _INFO:
                await _answer(call, self._workers.info)
            case path if path in PASSED:
                async with self._portal.enter(self._builders.use) as lease:
                    await forward(call, lease.channel, *self._changes(call))
            case _:
                refuse(call)

    async def _solve(self, call: ServerCall) -> None:
        request = await _one_request(call)
        metadata, timeout = call.metadata(), call.timeout()
        try:
            answer = await self._portal.run(lambda: self._solves.solve(request, metadata, timeout))
        except BuildkitError as error:
            raise shown_error(error) from error
        await call.send(answer)

    def _changes(self, call: ServerCall) -> tuple[OnRequest, OnAnswer]:
        """How the messages of a call change on their way to buildkitd, and on their way back."""
        match call.path:
            case path if path == _FRONTEND:
                reference = next((str(value) for name, value in call.metadata() if name == _BUILD_ID), "")

                async def rewrite(raw: bytes) -> bytes:
                    if len(raw) < _LARGE:
                        return self._solves.rewrite_frontend(raw, reference)
                    return await asyncio.to_thread(self._solves.rewrite_frontend, raw, reference)

                return rewrite, _unchanged
            case path if path == _STATUS:
                return self._show_status()
            case path if path == _HISTORY:
                return _pass, show_history
            case _:
                return _pass, _unchanged

    def _show_status(self) -> tuple[OnRequest, OnAnswer]:
        reference = ""

        async def read(raw: bytes) -> bytes:
            nonlocal reference
            reference = status_reference(raw)
            return raw

        def show(raw: bytes) -> bytes:
            return show_progress(raw, self._solves.result_name(reference))

        return read, show


async def _pass(request: bytes) -> bytes:
    return request


def _unchanged(answer: bytes) -> bytes:
    return answer


async def _one_request(call: ServerCall) -> bytes:
    """The request of a call that has one. BuildkitError when the client sends none, in the words of Go's gRPC."""
    request = await call.receive()
    if request is None:
        raise BuildkitError(Code.INTERNAL, "no request")
    return request


async def _answer(call: ServerCall, answer: Callable[[], bytes]) -> None:
    await _one_request(call)
    await call.send(answer())
