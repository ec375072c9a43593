"""The lines of an answer of `POST /build`: text of the classic builder (version 1), or BuildKit's messages (version 2)."""

import base64
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.status import parse_failure, parse_progress_untrusted
from appliance.container.build_lines import BuildFailed, BuildLine, BuildResult
from appliance.engine.builds.classic_stream import ClassicStream
from appliance.errors import InvalidParameter, VchError
from appliance.image.dockerfile_steps import Step
from appliance.image.reference import Reference

Report = Callable[[BuildLine], Awaitable[None]]
"""Takes one line of the answer."""

_TRACE, _IMAGE_ID = "moby.buildkit.trace", "moby.image.id"
_SHORT_ID = 12
# Pieces of text that a quiet build keeps for its failure.
_MOST_HELD = 1000
# Bytes of progress that are read at once; a thread reads more. BuildKit's messages are smaller, but the builder may be hostile.
LARGE_PROGRESS = 64 << 10
_BAD_DOCKERFILE = re.compile(
    r"dockerfile parse error|file with no instructions|target stage .* could not be found|.*: parse error on line"
)


class Writer(Protocol):
    """Writes the lines of one answer."""

    async def begin(self, *, running: bool) -> None:
        """The build begins; `running`: the builder runs already."""

    async def progress(self, raw: bytes) -> None:
        """A message of Control/Status."""

    async def end(self, image_id: str) -> None:
        """The build has ended well; `image_id` is "" if it made no image."""

    async def fail(self, error: BuildkitError) -> VchError:
        """Write what is left, and return the error for the client."""


class TraceWriter:
    """Version 2: BuildKit's messages."""

    def __init__(self, report: Report) -> None:
        self._report = report

    async def begin(self, *, running: bool) -> None:
        """See Writer."""

    async def progress(self, raw: bytes) -> None:
        """See Writer."""
        await self._report(BuildLine(id=_TRACE, aux=base64.b64encode(raw).decode()))

    async def end(self, image_id: str) -> None:
        """See Writer."""
        if image_id:
            await self._report(BuildLine(id=_IMAGE_ID, aux=BuildResult(image_id)))

    async def fail(self, error: BuildkitError) -> VchError:
        """See Writer."""
        failure = parse_failure(error)
        return BuildFailed(failure.text, failure.exit_code)


class TextWriter:
    """Version 1: the text of the classic builder. If `quiet`, it comes only if the build fails."""

    def __init__(self, names: Sequence[Reference], steps: list[Step], report: Report, *, quiet: bool) -> None:
        self._names = names
        self._quiet = quiet
        self._report = report
        self._stream = ClassicStream(steps)
        self._held: deque[str] = deque(maxlen=_MOST_HELD)

    async def begin(self, *, running: bool) -> None:
        """See Writer."""
        if not running:
            await self._write(["Starting the builder machine\n"])

    async def progress(self, raw: bytes) -> None:
        """See Writer."""
        large = len(raw) > LARGE_PROGRESS
        await self._write(await trio.to_thread.run_sync(self._text, raw) if large else self._text(raw))

    def _text(self, raw: bytes) -> list[str]:
        return self._stream.feed(parse_progress_untrusted(raw))

    async def end(self, image_id: str) -> None:
        """See Writer."""
        if self._quiet:
            await self._report(BuildLine(f"{image_id}\n"))
            return
        await self._write(self._stream.finish(succeeded=True))
        await self._report(BuildLine(aux=BuildResult(image_id)))
        short = image_id.removeprefix("sha256:")[:_SHORT_ID]
        await self._write([f"Successfully built {short}\n", *(f"Successfully tagged {name}\n" for name in self._names)])

    async def fail(self, error: BuildkitError) -> VchError:
        """See Writer."""
        failure = parse_failure(error)
        pieces, text = self._stream.fail(failure)
        self._quiet = False
        await self._write([*self._held, *pieces])
        # What is wrong with the Dockerfile itself is a status if nothing was written yet, as with dockerd.
        if _BAD_DOCKERFILE.match(failure.text):
            return InvalidParameter(text)
        return BuildFailed(text, failure.exit_code)

    async def _write(self, pieces: list[str]) -> None:
        if self._quiet:
            self._held.extend(pieces)
            return
        for piece in pieces:
            await self._report(BuildLine(piece))
