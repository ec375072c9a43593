"""`POST /build`: vchd is the client of BuildKit, and writes what the classic builder or BuildKit's own messages would be."""

import math
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trio

from appliance.buildkit.budget import ByteBudget
from appliance.buildkit.channel import BuildkitChannel, RawStream
from appliance.buildkit.door_names import cut_names
from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.metadata import Metadata
from appliance.buildkit.requests import (
    MOBY_EXPORTER,
    STATUS,
    FrontendBuild,
    image_id_untrusted,
    solve_request,
    status_request,
)
from appliance.buildkit.session_host import UPLOAD_HOST, HostedSession
from appliance.buildkit.shown_names import show_error, show_progress
from appliance.container.build_lines import BuildFailed
from appliance.container.build_request import (
    CLIENT_SESSION,
    UPLOAD_REQUEST,
    BuilderFacts,
    BuildRequest,
    frontend_attributes,
    wants_inline_cache,
)
from appliance.engine.builds.answers import LARGE_PROGRESS, Report, TextWriter, TraceWriter, Writer
from appliance.engine.builds.context import ContextSpool
from appliance.engine.builds.contracts import Builders
from appliance.engine.builds.rendezvous import UploadRendezvous
from appliance.errors import Conflict
from appliance.image.dockerfile_steps import Step
from appliance.image.reference import Reference
from appliance.registry import Credentials

Body = AsyncGenerator[bytes, None]
_CACHE_ONLY = "cacheonly"
_IMAGES = (MOBY_EXPORTER, "image")
# BuildKit's Status ends soon after its Solve.
_LAST_PROGRESS_SECONDS = 5.0
# A Status that comes before its Solve waits in buildkitd for 6 s; a Solve may wait for its turn for longer.
_RETRY_SECONDS = 0.5


class Solves(Protocol):
    """What `solve.SolveService` does for a build."""

    async def solve(self, raw: bytes, metadata: Metadata = (), timeout: float | None = None) -> bytes: ...

    def result_name(self, reference: str) -> str: ...


@dataclass(frozen=True, slots=True)
class _Source:
    """A context for BuildKit: attributes of the frontend, files that a session serves, and the instructions if they are known."""

    attributes: dict[str, str]
    uploads: dict[str, Path] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


class ClassicBuilds:
    """`facts` says what the builder has, when it is asked."""

    def __init__(
        self, builders: Builders, solves: Solves, spool: ContextSpool, facts: Callable[[], BuilderFacts]
    ) -> None:
        self.builders = builders
        self.solves = solves
        self._spool = spool
        self._facts = facts
        self._rendezvous = UploadRendezvous()
        # Of all sessions together: buildkitd calls each of them, and may be hostile.
        self.session_budget = ByteBudget()
        self._running: dict[str, trio.CancelScope] = {}

    @asynccontextmanager
    async def open(
        self, request: BuildRequest, names: Sequence[Reference], credentials: Mapping[str, Credentials], body: Body
    ) -> AsyncIterator["ClassicBuild"]:
        """A build whose context has arrived; `body` is the body of the request. The block must run it.

        InvalidParameter, Unavailable and others when it cannot begin.
        """
        attributes = frontend_attributes(request, self._facts())
        async with self._source(request, body) as source:
            yield ClassicBuild(self, request, names, credentials, _with_attributes(source, attributes))

    async def upload(self, build: str, body: Body) -> None:
        """Receive the context of the build of this ID. Returns when the build has ended. Unavailable when no build asks for it."""
        await self._rendezvous.give(build, lambda: self._spool.keep(body))

    def cancel(self, build: str) -> None:
        """Cancel the build of this ID, if there is one."""
        if scope := self._running.get(build):
            scope.cancel()

    @contextmanager
    def cancellable(self, build: str) -> Iterator[trio.CancelScope]:
        """A scope that `cancel` cancels. Conflict when a build of this ID is under way."""
        with trio.CancelScope() as scope:
            if not build:
                yield scope
                return
            if build in self._running:
                raise Conflict(f"the build {build} is under way")
            self._running[build] = scope
            try:
                yield scope
            finally:
                del self._running[build]

    @asynccontextmanager
    async def _source(self, request: BuildRequest, body: Body) -> AsyncIterator[_Source]:
        filename = {"filename": request.dockerfile_path}
        if request.remote == CLIENT_SESSION:
            yield _Source(filename)
        elif request.remote == UPLOAD_REQUEST:
            async with self._rendezvous.take(request.buildid) as path:
                yield _upload(filename, path)
        elif request.remote:
            yield _Source(filename | {"context": request.remote})
        elif request.is_buildkit:
            async with self._spool.keep(body) as path:
                yield _upload(filename, path)
        else:
            async with self._spool.receive(body, request.dockerfile_path, request.target) as context:
                folder = {"contextsubdir": context.folder} if context.folder else {}
                yield _upload({"filename": context.dockerfile} | folder, context.archive, context.steps)


class _SolveState:
    """Whether the Solve of a build has ended, and how long its progress is waited for then.

    Only that wait has an end: a client that reads slowly still gets whole lines.
    """

    def __init__(self) -> None:
        self.ended = False
        self._wait = trio.CancelScope()

    def end(self) -> None:
        """The Solve has ended, well or not."""
        self.ended = True
        self._wait.deadline = self._deadline()

    async def receive(self, stream: RawStream) -> list[bytes]:
        """The next progress; [] at the end of the stream, or if none comes for some seconds after the Solve."""
        with trio.CancelScope(deadline=self._deadline()) as self._wait:
            return await stream.receive()
        return []

    def _deadline(self) -> float:
        return trio.current_time() + _LAST_PROGRESS_SECONDS if self.ended else math.inf


class ClassicBuild:
    """One build."""

    def __init__(
        self,
        builds: ClassicBuilds,
        request: BuildRequest,
        names: Sequence[Reference],
        credentials: Mapping[str, Credentials],
        source: _Source,
    ) -> None:
        self._builds = builds
        self._request = request
        self._names = names
        self._credentials = credentials
        self._source = source

    async def run(self, report: Report) -> None:
        """Build the image, and report the lines of the answer. Returns when the image is in the store.

        BuildFailed when BuildKit cannot build it, or when another client has cancelled the build.
        """
        request, source = self._request, self._source
        writer: Writer = TraceWriter(report)
        if not request.is_buildkit:
            writer = TextWriter(self._names, source.steps, report, quiet=request.q)
        with self._builds.cancellable(request.buildid) as scope:
            await writer.begin(running=self._builds.builders.running)
            async with AsyncExitStack() as stack:
                lease = await stack.enter_async_context(self._builds.builders.use())
                session = request.session
                if request.remote != CLIENT_SESSION:
                    hosted = HostedSession.open(
                        lease.channel,
                        self._builds.session_budget,
                        credentials=self._credentials,
                        uploads=source.uploads,
                    )
                    session = (await stack.enter_async_context(hosted)).id
                build = self._frontend_build(session)
                answer = await self._solve(lease.channel, build, writer)
            await writer.end(image_id_untrusted(answer) if build.exporter in _IMAGES else "")
        if scope.cancelled_caught:
            raise BuildFailed("context canceled")

    def _frontend_build(self, session: str) -> FrontendBuild:
        request = self._request
        exporter, attributes = MOBY_EXPORTER, dict[str, str]()
        if request.outputs:
            exporter, attributes = request.outputs[0].type, dict(request.outputs[0].attrs)
            exporter = "" if exporter == _CACHE_ONLY else exporter
        if self._names and exporter in _IMAGES:
            attributes["name"] = ",".join(f"{name.name}:{name.tag}" for name in self._names)
        reference = uuid.uuid4().hex
        inline = wants_inline_cache(request)
        return FrontendBuild(reference, session, self._source.attributes, exporter, attributes, inline)

    async def _solve(self, channel: BuildkitChannel, build: FrontendBuild, writer: Writer) -> bytes:
        """Solve, and write progress until both have ended."""
        answer = b""
        failures: list[Exception] = []
        state = _SolveState()

        async def watch(scope: trio.CancelScope) -> None:
            try:
                await self._watch(channel, build.reference, writer, state)
            except Exception as error:
                failures.append(error)
                scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, nursery.cancel_scope)
            try:
                answer = await self._builds.solves.solve(solve_request(build))
            except Exception as error:
                # The nursery would put it into a group.
                failures.append(error)
            state.end()
        for failure in failures:
            raise await writer.fail(_shown(failure)) if isinstance(failure, BuildkitError) else failure
        return answer

    async def _watch(self, channel: BuildkitChannel, reference: str, writer: Writer, state: _SolveState) -> None:
        received = False
        while True:
            try:
                async with channel.stream(STATUS, status_request(reference)) as stream:
                    while batch := await state.receive(stream):
                        received = True
                        for raw in batch:
                            await writer.progress(await self._shown_progress(raw, reference))
                return
            except BuildkitError:
                # The Solve waits for its turn, or it has failed: then its own error says why.
                if received or state.ended:
                    return
                await trio.sleep(_RETRY_SECONDS)

    async def _shown_progress(self, raw: bytes, reference: str) -> bytes:
        """A message of Status with the users' names of images."""
        result = self._builds.solves.result_name(reference)
        if len(raw) > LARGE_PROGRESS:
            return await trio.to_thread.run_sync(show_progress, raw, result)
        return show_progress(raw, result)


def _shown(error: BuildkitError) -> BuildkitError:
    """The error with the users' names of images."""
    return BuildkitError(error.code, cut_names(error.text), show_error(error.details))


def _upload(attributes: dict[str, str], path: Path, steps: list[Step] | None = None) -> _Source:
    name = f"/{uuid.uuid4().hex}"
    return _Source(attributes | {"context": f"{UPLOAD_HOST}{name}"}, {name: path}, steps or [])


def _with_attributes(source: _Source, attributes: dict[str, str]) -> _Source:
    return _Source(source.attributes | attributes, source.uploads, source.steps)
