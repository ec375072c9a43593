"""The timeline of one start. Whoever works for it marks what was just done; the context says for which start that was."""

import time
from contextvars import ContextVar

_MOST = 200
_current: ContextVar["Trace | None"] = ContextVar("vch_trace", default=None)


class Trace:
    """Marks in the order in which they were made, seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._marks: list[tuple[str, float]] = []

    def mark(self, name: str, at: float | None = None) -> None:
        """Say that a step has just ended, or did at that time."""
        if len(self._marks) < _MOST:
            self._marks.append((name, time.monotonic() if at is None else at))

    def follow(self) -> None:
        """From here on `mark` in this task, and in tasks that it starts, is for this trace."""
        _current.set(self)

    def text(self) -> str:
        """A line a step: ms since the beginning, ms of the step, its name."""
        lines = []
        last = self._began
        for name, at in self._marks:
            lines.append(f"{(at - self._began) * 1000:9.1f} {(at - last) * 1000:+9.1f}  {name}\n")
            last = at
        return "".join(lines)


def mark(name: str, at: float | None = None) -> None:
    """A step of the start that this task works for has just ended, or did at that time of the monotonic clock.

    Nothing happens when this task works for no start.
    """
    trace = _current.get()
    if trace is not None:
        trace.mark(name, at)
