"""The text of dockerd's classic builder, made of BuildKit's progress. Pure.

The classic builder runs one instruction after the other. BuildKit runs several at once: the output of a step waits here until the step
before it in the text has ended.
"""

import codecs
import re
from dataclasses import dataclass, field

from appliance.buildkit.status import STDERR, BuildFailure, Log, Progress, Vertex
from appliance.image.dockerfile_steps import Step

MAX_TEXT = 64 << 10
"""Characters of one piece of text."""
MAX_WAITING = 1 << 20
"""Characters of output that wait. Beyond that, the step with the most output comes before its turn."""
MAX_VERTEXES = 10_000
_MAX_WARNINGS = 100
_USING_CACHE = " ---> Using cache\n"
# "[2/3] RUN x", "[build  2/10] RUN x", "[linux/amd64 build 2/3] RUN x" (dockerfile2llb prefixCommand).
_STEP = re.compile(
    r"\[(?:(?:[^\]\s]+ )*?(?P<stage>[^\]\s]+) )?\s*(?P<index>\d+)/(?P<total>\d+)\] (?P<text>.*)", re.DOTALL
)
# Errors of BuildKit for a base image, and for a file of the context, that are not there.
_NO_BASE = "failed to resolve source metadata"
# A path may hold the same words many times, so the part for the reference, some 60 characters, is bounded.
_NOT_FOUND = re.compile(r'failed to calculate checksum of ref [^"]{0,256}: "([^"]*)": not found')
_TRIGGER = "ONBUILD "
_RED, _PLAIN = "\x1b[91m", "\x1b[0m"


@dataclass(slots=True, eq=False)
class _Shown:
    """A step that the text shows. `index` is BuildKit's, within the stage."""

    stage: str
    index: int
    text: str
    cached: bool = False
    queued: bool = False
    completed: bool = False
    announced: bool = False
    output: list[str] = field(default_factory=list)
    waiting: int = 0
    decoders: dict[int, codecs.IncrementalDecoder] = field(default_factory=dict)


class ClassicStream:
    """Makes text of progress. `steps` are the instructions of the Dockerfile, none if it is not known."""

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps
        self._numbers: dict[tuple[str, int], int] = {}
        for number, step in enumerate(steps):
            # BuildKit names no stage if there is only one.
            for stage in (step.stage_name, "") if step.index else ():
                self._numbers.setdefault((stage, step.index), number)
        self._written = [False] * len(steps)
        self._shown: dict[str, _Shown] = {}
        self._queue: list[_Shown] = []
        self._current: _Shown | None = None
        self._triggers: dict[str, int] = {}
        self._stages: set[str] = set()
        self._count = 0
        self._last_name = "COPY"
        self._vertexes = 0
        self._warnings: list[str] = []

    def feed(self, progress: Progress) -> list[str]:
        """The text that the progress adds, in pieces."""
        for vertex in progress.vertexes:
            self._update(vertex)
        if progress.vertexes:
            self._queue.sort(key=self._place)
        for log in progress.logs:
            self._append(log)
        for warning in progress.warnings[: _MAX_WARNINGS - len(self._warnings)]:
            self._warnings.append(f"[Warning] {warning[:MAX_TEXT]}\n")
        pieces = self._take_ended()
        waiting = sum(one.waiting for one in self._queue)
        if waiting > MAX_WAITING:
            for shown in sorted(self._queue, key=lambda one: one.waiting, reverse=True):
                waiting -= shown.waiting
                pieces += self._put_first(shown)
                if waiting <= MAX_WAITING:
                    break
        return pieces

    def fail(self, failure: BuildFailure) -> tuple[list[str], str]:
        """The rest of the text of a build that has failed, and the error in the words of the classic builder."""
        pieces = self.finish(succeeded=False)
        if _NO_BASE in failure.text and self._steps and not any(self._written):
            pieces = self._instruction(0, cached=False)
        if failure.command and failure.exit_code:
            return pieces, f"The command '{failure.command}' returned a non-zero code: {failure.exit_code}"
        if found := _NOT_FOUND.search(failure.text):
            name = self._last_name
            path = found[1].lstrip("/")
            text = f"{name} failed: file not found in build context or excluded by .dockerignore: stat {path}: file does not exist"
            return pieces, text
        return pieces, failure.text

    def finish(self, *, succeeded: bool) -> list[str]:
        """The rest of the text: output that waits, and instructions without a step of BuildKit."""
        pieces: list[str] = []
        while self._current is not None or self._queue:
            if self._current is not None:
                self._current.completed = True
            pieces += self._take_ended()
        if succeeded:
            last = self._steps[-1].stage if self._steps else -1
            for number, step in enumerate(self._steps):
                if not self._written[number] and (
                    step.stage == last or (not step.index and step.stage_name in self._stages)
                ):
                    # BuildKit does not look at a step whose successor is cached.
                    pieces += self._instruction(number, cached=bool(step.index) or self._last_was_cached(step.stage))
        return pieces + self._warnings

    # -- what BuildKit reports --------------------------------------------------------------------------------------

    def _update(self, vertex: Vertex) -> None:
        shown = self._shown.get(vertex.digest)
        if shown is None:
            found = _STEP.fullmatch(vertex.name[:MAX_TEXT])
            if found is None or self._vertexes >= MAX_VERTEXES:
                return
            self._vertexes += 1
            stage, text = found["stage"] or "", found["text"]
            shown = self._shown[vertex.digest] = _Shown(stage, int(found["index"]), text)
            if text.startswith(_TRIGGER):
                self._triggers[stage] = self._triggers.get(stage, 0) + 1
        shown.cached |= vertex.cached
        shown.completed |= vertex.completed
        if (vertex.started or vertex.completed) and not shown.queued:
            shown.queued = True
            self._queue.append(shown)

    def _append(self, log: Log) -> None:
        shown = self._shown.get(log.vertex)
        if shown is None:
            return
        decoder = shown.decoders.get(log.stream)
        if decoder is None:
            decoder = shown.decoders[log.stream] = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(log.data)
        for start in range(0, len(text), MAX_TEXT):
            piece = text[start : start + MAX_TEXT]
            shown.output.append(f"{_RED}{piece}{_PLAIN}" if log.stream == STDERR else piece)
            shown.waiting += len(piece)

    # -- what clients read ------------------------------------------------------------------------------------------

    def _take_ended(self) -> list[str]:
        """Text up to the first step that has not ended."""
        pieces: list[str] = []
        while True:
            if self._current is None:
                if not self._queue:
                    return pieces
                self._current = self._queue.pop(0)
                pieces += self._announce(self._current)
            pieces += _take_output(self._current)
            if not self._current.completed:
                return pieces
            self._current = None

    def _put_first(self, shown: _Shown) -> list[str]:
        if self._current is not None:
            self._queue.append(self._current)
        self._queue.remove(shown)
        self._current = shown
        return self._announce(shown) + _take_output(shown)

    def _place(self, shown: _Shown) -> tuple[int, int]:
        number = self._number(shown)
        return (number if number is not None else len(self._steps), shown.index)

    def _number(self, shown: _Shown) -> int | None:
        """Which of the instructions a step is."""
        if shown.text.startswith(_TRIGGER):
            return None
        triggers = self._triggers.get(shown.stage, 0) if shown.index > 1 else 0
        return self._numbers.get((shown.stage, shown.index - triggers))

    def _announce(self, shown: _Shown) -> list[str]:
        if shown.announced:
            return []
        shown.announced = True
        number = self._number(shown)
        if number is None:
            self._count += 1
            total = max(self._count, len(self._shown))
            title = f"# {shown.text}\n" if self._steps else f"Step {self._count}/{total} : {shown.text}\n"
            return [title[:MAX_TEXT], _USING_CACHE] if shown.cached else [title[:MAX_TEXT]]
        if self._written[number]:
            return []
        stage = self._steps[number].stage
        self._stages.add(self._steps[number].stage_name)
        pieces = []
        for earlier in range(number):
            # Instructions without a step of BuildKit come with the step that follows them. Stages with the same base share its step.
            step = self._steps[earlier]
            if not self._written[earlier] and step.stage in (stage, -1) and (not step.index or _is_base(step)):
                pieces += self._instruction(earlier, cached=shown.cached)
        return pieces + self._instruction(number, cached=shown.cached)

    def _instruction(self, number: int, *, cached: bool) -> list[str]:
        self._written[number] = True
        step = self._steps[number]
        self._last_name = "ADD" if step.text[:3].upper() == "ADD" else "COPY"
        title = f"Step {number + 1}/{len(self._steps)} : {step.text}\n"
        return [title, _USING_CACHE] if cached and not _is_base(step) and step.stage >= 0 else [title]

    def _last_was_cached(self, stage: int) -> bool:
        """Whether the last step of a stage that BuildKit has reported came from its cache."""
        names = {step.stage_name for step in self._steps if step.stage == stage}
        steps = [one for one in self._shown.values() if (one.stage in names or not one.stage) and one.index > 1]
        return bool(steps) and max(steps, key=lambda one: one.index).cached


def _is_base(step: Step) -> bool:
    return step.text[:4].upper() == "FROM"


def _take_output(shown: _Shown) -> list[str]:
    output, shown.output, shown.waiting = shown.output, [], 0
    return output
