"""The one place that waits for children. The tether is PID 1: whatever loses its parent ends here as well."""

import os
import signal
from collections.abc import Callable

import trio


class Reaper:
    """Collects every child; those that somebody watches are reported with their wait status."""

    def __init__(self) -> None:
        self._watched: dict[int, Callable[[int], None]] = {}
        self._early: dict[int, int] = {}

    def watch(self, pid: int, on_exit: Callable[[int], None]) -> None:
        """Call `on_exit(wait status)` once, also when the child has ended before this call."""
        status = self._early.pop(pid, None)
        if status is not None:
            on_exit(status)
        else:
            self._watched[pid] = on_exit

    async def run(self) -> None:
        with trio.open_signal_receiver(signal.SIGCHLD) as signals:
            while True:
                self._collect()
                await signals.__anext__()

    def _collect(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            on_exit = self._watched.pop(pid, None)
            if on_exit is not None:
                on_exit(status)
            else:
                # A process that ended before its start had been answered. Orphans come here too: keep few.
                self._early[pid] = status
                while len(self._early) > 256:
                    del self._early[next(iter(self._early))]

    def forget(self, pid: int) -> None:
        """A pid that will not be watched: a failed launch."""
        self._early.pop(pid, None)
