"""Calls of build clients on /grpc, by their method. All of it runs on the build loop, and asks trio for what belongs to the engine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.forward import CONTROL, PASSED, OnAnswer, OnRequest, forward, refuse
from appliance.buildkit.grpc_connection import Serve
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

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Serve]:
        """What serves the calls of one connection, until the block ends."""
        async with AsyncExitStack() as stack:
            connection = _Connection(self, stack)
            try:
                yield connection.serve
            finally:
                await connection.end()

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

    async def lease(self, stack: AsyncExitStack) -> None:
        """Wait for a buildkitd that answers, and keep it until the stack is closed."""
        await stack.enter_async_context(self._portal.enter(self._builders.use))

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


class _Connection:
    """The calls of one connection.

    A client that builds asks ListWorkers first, and gives it as long as it takes; the builder starts then. For the calls that follow
    there is no time: buildx gives the first of them 15 s (grpcclient.New of moby/buildkit). So the builder stays while the connection
    does. Clients that list builders set a deadline, and are answered from what is known.
    """

    def __init__(self, calls: BuildCalls, stack: AsyncExitStack) -> None:
        self._calls = calls
        self._stack = stack
        self._leased: asyncio.Task[None] | None = None

    async def serve(self, call: ServerCall) -> None:
        if call.path == _LIST_WORKERS and call.timeout() is None:
            await self._lease()
        await self._calls.serve(call)

    async def end(self) -> None:
        """Stop waiting for the builder."""
        if self._leased is not None:
            self._leased.cancel()
            await asyncio.gather(self._leased, return_exceptions=True)

    async def _lease(self) -> None:
        if self._leased is None or (self._leased.done() and self._leased.exception() is not None):
            self._leased = asyncio.create_task(self._calls.lease(self._stack))
        await asyncio.shield(self._leased)


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
