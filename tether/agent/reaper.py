"""The only place that waits for child processes. The tether is PID 1, so orphans of the guest end here as well."""

import os
import signal
from collections.abc import Callable

import trio


class Reaper:
    """Collects every child process, and reports the wait status of those that are watched."""

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
                # The process ended before `watch` was called for it, or it is an orphan: remember the last ones only.
                self._early[pid] = status
                while len(self._early) > 256:
                    del self._early[next(iter(self._early))]
