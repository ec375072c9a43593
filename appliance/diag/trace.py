"""The timeline of one container start. Code marks the step that has just ended; a context variable holds the trace of the start."""

import time
from contextvars import ContextVar

_MOST = 200
_current: ContextVar["Trace | None"] = ContextVar("vch_trace", default=None)


class Trace:
    """Marks in the order in which they were made, with seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._marks: list[tuple[str, float]] = []

    def mark(self, name: str, at: float | None = None) -> None:
        """Record that a step has ended, now or at the given time."""
        if len(self._marks) < _MOST:
            self._marks.append((name, time.monotonic() if at is None else at))

    def follow(self) -> None:
        """From now on, `mark` in this task and in tasks that it starts records into this trace."""
        _current.set(self)

    @property
    def last(self) -> str:
        """The name of the last mark; "" while there is none."""
        return self._marks[-1][0] if self._marks else ""

    def text(self) -> str:
        """One line per step: ms since the beginning, ms of the step, its name."""
        lines = []
        last = self._began
        for name, at in self._marks:
            lines.append(f"{(at - self._began) * 1000:9.1f} {(at - last) * 1000:+9.1f}  {name}\n")
            last = at
        return "".join(lines)


def mark(name: str, at: float | None = None) -> None:
    """Record that a step of the current start has ended, now or at the given time of the monotonic clock.

    Does nothing in a task that does not belong to a start.
    """
    trace = _current.get()
    if trace is not None:
        trace.mark(name, at)
