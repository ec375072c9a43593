"""The life of one QEMU process: started here or adopted, killed, awaited."""

import contextlib
import logging
import math
import os
import signal
import subprocess

import trio

from appliance.hypervisor.driver import Usage
from appliance.hypervisor.qemu.process import has_ended, usage_of

_GLANCE_SECONDS = 0.02
_NICE = 10
_LATE_SECONDS = 10.0

log = logging.getLogger(__name__)


class QemuProcess:
    """At most one process at a time, by its pidfd. `child` is the process if this appliance started it."""

    def __init__(self) -> None:
        self.pid = 0
        self._pidfd = -1
        self._child: subprocess.Popen[bytes] | None = None
        self._off = trio.Event()
        self._off.set()

    @property
    def off(self) -> bool:
        return self._off.is_set()

    @property
    def started_here(self) -> bool:
        """Whether this appliance started the process, and the process has not ended."""
        return self._pidfd >= 0 and self._child is not None

    def attach(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        """Take charge of a process: a child, or the process of an earlier appliance."""
        self._child = child
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._off = trio.Event()

    async def supervise(self) -> None:
        """Return when the process has ended, whatever ended it."""
        with contextlib.suppress(trio.ClosedResourceError):
            await trio.lowlevel.wait_readable(self._pidfd)
        self._finish()

    def _finish(self) -> None:
        if self._pidfd >= 0:
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            self.pid = 0
        if self._child is not None:
            self._child.wait()
        self._off.set()

    async def kill(self) -> None:
        """Kill the process and wait for its end."""
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        # `supervise` alone does not suffice: at the end of the appliance it has been cancelled already.
        late = trio.current_time() + _LATE_SECONDS
        while not self._off.is_set():
            if trio.current_time() > late:
                log.warning(
                    "QEMU, process %d, has not ended %.0f s after SIGKILL: its host or its disk hangs",
                    self.pid,
                    _LATE_SECONDS,
                )
                late = math.inf
            with trio.move_on_after(_GLANCE_SECONDS):
                await self._off.wait()
            if self._pidfd >= 0 and has_ended(self._pidfd):
                self._finish()

    async def wait_off(self) -> None:
        await self._off.wait()

    def usage(self) -> Usage:
        return usage_of(self.pid) if self.pid else Usage(0, 0)

    def in_background(self, background: bool) -> None:
        """Let other processes go first, or not. Only root may undo it, so without root it has no effect."""
        if self._child is not None and os.geteuid() == 0:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._child.pid, _NICE if background else 0)
