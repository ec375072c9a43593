"""Work that a child process does for the tether: it takes long, or needs the container's view of files, or may be killed.

The child is a fork: it has the tether's code and none of its descriptors, and must not use trio.
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
from tether.launch.layout import ROOT
from tether.rpc.status import Code, RpcError
from tether.system import linux

ROOTFS = f"{ROOT}/rootfs"
# The same with the volumes mounted in it: made when the VM has no process in whose view they are.
VIEW = f"{ROOT}/view"
PIECE = 256 << 10
_PIPE = 1 << 20
_REPORT = 4096
_MOST_OUTPUT = 2000
_CODES = {errno.ENOENT: Code.NOT_FOUND, errno.ENOTDIR: Code.NOT_FOUND, errno.ENOSPC: Code.RESOURCE_EXHAUSTED}

Work = Callable[[int, int], None]
"""The function that a child runs: it reads the first descriptor and writes the second. It may raise RpcError or OSError."""


class Pipe:
    """The tether's end of a pipe."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd

    async def read(self, size: int = PIECE) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        while True:
            try:
                return os.read(self._fd, size)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._fd)

    async def write(self, data: bytes) -> bool:
        """Return whether the other end still reads."""
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
    """The tether's view of a child: `input` is what the child reads, `output` what it writes."""

    def __init__(self, pid: int, ends: tuple[int, int, int]) -> None:
        self.pid = pid
        self.input, self.output, self._report = (Pipe(fd) for fd in ends)
        self._ended = trio.Event()
        self._status = 0

    async def finish(self) -> None:
        """Return when the work is done. RpcError when it has failed."""
        report = await self._report.read(_REPORT)
        if report != b"done":
            code, _, text = report.partition(b" ")
            raise RpcError(
                Code(int(code or Code.ABORTED)), text.decode("utf-8", "replace") or "the child ended before it was done"
            )

    def on_exit(self, status: int) -> None:
        self._status = os.waitstatus_to_exitcode(status)
        self._ended.set()

    async def wait(self) -> int:
        """Return the exit status of a child that executed another program; negative for a signal."""
        await self._ended.wait()
        return self._status

    async def end(self) -> None:
        """Kill the child, and return when it is gone."""
        if not self._ended.is_set():
            os.kill(self.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await self._ended.wait()

    def close(self) -> None:
        for pipe in (self.input, self.output, self._report):
            pipe.close()


@asynccontextmanager
async def child(reaper: Reaper, work: Work) -> AsyncIterator[Child]:
    """Start a child that does `work`. Its output ends when it ends. Leaving the block kills the child."""
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


async def run_program(reaper: Reaper, path: str, arguments: list[str], what: str) -> None:
    """Run a program of the guest. RpcError FAILED_PRECONDITION with `what` and the end of its output when it fails."""

    def work(_: int, out: int) -> None:
        os.dup2(out, 2)
        os.execve(path, arguments, {"PATH": "/bin"})

    output = b""
    async with child(reaper, work) as program:
        while data := await program.output.read():
            output = (output + data)[-_MOST_OUTPUT:]
        status = await program.wait()
    if status:
        raise RpcError(Code.FAILED_PRECONDITION, f"{what}: {output.decode('utf-8', 'replace').strip()}")


def _work(work: Work, given: list[int]) -> None:
    """Never returns."""
    report = 2
    try:
        # Move the descriptors up first: their numbers may be among those that they move down to.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in given]
        for number, fd in enumerate(high):
            os.dup2(fd, number)
        # Close all else: an inherited end of another child's pipe would keep that pipe from ending.
        os.closerange(3, 1 << 20)
        work(0, 1)
        result = b"done"
    except RpcError as error:
        result = f"{int(error.code)} {error.message}".encode("utf-8", "replace")
    except OSError as error:
        code = _CODES.get(error.errno or 0, Code.INTERNAL)
        subject = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        result = f"{int(code)} {subject}{(error.strerror or str(error)).lower()}".encode("utf-8", "replace")
    except BaseException as error:
        result = f"{int(Code.INTERNAL)} {type(error).__name__}: {error}".encode("utf-8", "replace")
    try:
        os.write(report, result[:_REPORT])
    finally:
        os._exit(0 if result == b"done" else 1)


def root_of(pid: int) -> str:
    """Return the root of a process as a path of the guest; for 0 the container's root, with its volumes if they are mounted."""
    if pid:
        return f"/proc/{pid}/root"
    return VIEW if os.path.ismount(VIEW) else ROOTFS


def enter(pid: int, root: str = "") -> None:
    """In a child: enter the root of a process. For `pid` 0 enter `root`, by default the root as the container's disks have it."""
    if pid:
        pidfd = os.pidfd_open(pid)
        linux.setns(pidfd, linux.CLONE_NEWNS)
        os.close(pidfd)
    else:
        os.chroot(root or ROOTFS)
    os.chdir("/")
