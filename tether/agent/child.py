"""Work that a process of its own does for the tether: it sees files as a container does, or is long, and may end untimely.

The child is a fork: it has the tether's code and none of its descriptors, and must not touch trio.
"""

import errno
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import trio

from tether.agent.reaper import Reaper
from tether.launch.launcher import fork
from tether.rpc.status import Code, RpcError
from tether.system import linux

ROOTFS = "/run/tether/rootfs"
# The same with the volumes in their places, where no process shows them.
VIEW = "/run/tether/view"
PIECE = 256 << 10
_PIPE = 1 << 20
_REPORT = 4096
_CODES = {errno.ENOENT: Code.NOT_FOUND, errno.ENOTDIR: Code.NOT_FOUND, errno.ENOSPC: Code.RESOURCE_EXHAUSTED}

Work = Callable[[int, int], None]
"""What a child does: reads the first descriptor, writes the second. It fails with RpcError or OSError."""


class Pipe:
    """The tether's end of a pipe."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd

    async def read(self, size: int = PIECE) -> bytes:
        """b"" at its end."""
        while True:
            try:
                return os.read(self._fd, size)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._fd)

    async def write(self, data: bytes) -> bool:
        """False when nobody reads any more."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._fd)
            except BrokenPipeError:
                return False
        return True

    def close(self) -> None:
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1


class Child:
    """`input` is what it reads, `output` what it writes."""

    def __init__(self, pid: int, ends: tuple[int, int, int]) -> None:
        self.pid = pid
        self.input, self.output, self._report = (Pipe(fd) for fd in ends)
        self._ended = trio.Event()
        self._status = 0

    async def finish(self) -> None:
        """Return when its work is done. RpcError when it could not be."""
        said = await self._report.read(_REPORT)
        if said != b"done":
            code, _, text = said.partition(b" ")
            raise RpcError(Code(int(code or Code.ABORTED)), text.decode("utf-8", "replace") or "it ended untimely")

    def on_exit(self, status: int) -> None:
        self._status = os.waitstatus_to_exitcode(status)
        self._ended.set()

    async def wait(self) -> int:
        """The exit status of one that became another program, negative for a signal."""
        await self._ended.wait()
        return self._status

    async def end(self) -> None:
        """Return when it is gone."""
        if not self._ended.is_set():
            os.kill(self.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await self._ended.wait()

    def close(self) -> None:
        for pipe in (self.input, self.output, self._report):
            pipe.close()


@asynccontextmanager
async def child(reaper: Reaper, work: Work) -> AsyncIterator[Child]:
    """A child that does `work`. Its output ends when it does; at the block's end it is ended."""
    ours: list[int] = []
    theirs: list[int] = []
    for writes in (False, True, True):
        reading, writing = os.pipe2(os.O_CLOEXEC)
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
        ours.append(reading if writes else writing)
        theirs.append(writing if writes else reading)
    try:
        pid = fork(0, -1, lambda: _work(work, theirs))
    finally:
        for fd in theirs:
            os.close(fd)
    with closing(Child(pid, (ours[0], ours[1], ours[2]))) as one:
        reaper.watch(pid, one.on_exit)
        try:
            yield one
        finally:
            await one.end()


def _work(work: Work, given: list[int]) -> None:
    """Never returns."""
    report = 2
    try:
        # Away from the low numbers first, where they are to go.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in given]
        for number, fd in enumerate(high):
            os.dup2(fd, number)
        # A pipe's end kept open here would be an input that never ends elsewhere.
        os.closerange(3, 1 << 20)
        work(0, 1)
        said = b"done"
    except RpcError as error:
        said = f"{int(error.code)} {error.message}".encode("utf-8", "replace")
    except OSError as error:
        code = _CODES.get(error.errno or 0, Code.INTERNAL)
        subject = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        said = f"{int(code)} {subject}{(error.strerror or str(error)).lower()}".encode("utf-8", "replace")
    except BaseException as error:
        said = f"{int(Code.INTERNAL)} {type(error).__name__}: {error}".encode("utf-8", "replace")
    try:
        os.write(report, said[:_REPORT])
    finally:
        os._exit(0 if said == b"done" else 1)


def root_of(pid: int) -> str:
    """The root that a process has; with 0 the container's, with its volumes if they are shown."""
    if pid:
        return f"/proc/{pid}/root"
    return VIEW if os.path.ismount(VIEW) else ROOTFS


def enter(pid: int, root: str = "") -> None:
    """In a child: make the root of a process this one's; with 0 `root`, by default that which the container's disks make up."""
    if pid:
        pidfd = os.pidfd_open(pid)
        linux.setns(pidfd, linux.CLONE_NEWNS)
        os.close(pidfd)
    else:
        os.chroot(root or ROOTFS)
    os.chdir("/")
