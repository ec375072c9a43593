"""Contexts that clients send in a request of their own: `docker build -` of CLI 18.09 to 22 with BuildKit (moby builder.go buildJob)."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from appliance.errors import Unavailable

WAIT_SECONDS = 5.0
MOST_WAITING = 100


@dataclass(slots=True, eq=False)
class _Meeting:
    """Where an upload meets its build. `path` is None until the upload is there, and after an upload that has failed."""

    path: Path | None = None
    arrived: trio.Event = field(default_factory=trio.Event)
    taken: trio.Event = field(default_factory=trio.Event)
    received: trio.Event = field(default_factory=trio.Event)
    finished: trio.Event = field(default_factory=trio.Event)


class UploadRendezvous:
    """Brings the request of a build and the request with its context together. Each waits 5 s for the other."""

    def __init__(self) -> None:
        self._meetings: dict[str, _Meeting] = {}

    async def give(self, build: str, receive: Callable[[], AbstractAsyncContextManager[Path]]) -> None:
        """Receive the context of the build of this ID, and return when the build has ended. Unavailable when no build asks for it."""
        with self._meeting(build) as meeting:
            meeting.arrived.set()
            with trio.move_on_after(WAIT_SECONDS):
                await meeting.taken.wait()
            if not meeting.taken.is_set():
                raise Unavailable(f"no build {build} asked for the upload: context deadline exceeded")
            try:
                async with receive() as path:
                    meeting.path = path
                    meeting.received.set()
                    await meeting.finished.wait()
            finally:
                meeting.path = None
                meeting.received.set()

    @asynccontextmanager
    async def take(self, build: str) -> AsyncIterator[Path]:
        """The context for the build of this ID, in a file, for a block. Unavailable when none arrives."""
        with self._meeting(build) as meeting:
            with trio.move_on_after(WAIT_SECONDS):
                await meeting.arrived.wait()
            if meeting.arrived.is_set():
                meeting.taken.set()
                await meeting.received.wait()
            try:
                if meeting.path is None:
                    raise Unavailable(f"no upload for build {build} arrived: context deadline exceeded")
                yield meeting.path
            finally:
                meeting.finished.set()

    @contextmanager
    def _meeting(self, build: str) -> Iterator[_Meeting]:
        """The meeting of this ID. The first of the two that leaves ends it."""
        if build not in self._meetings and len(self._meetings) >= MOST_WAITING:
            raise Unavailable("too many uploads of builds wait")
        meeting = self._meetings.setdefault(build, _Meeting())
        try:
            yield meeting
        finally:
            if self._meetings.get(build) is meeting:
                del self._meetings[build]
