"""The context of a classic build: its bytes in a file of the scratch folder, read by a child process (image/context_scan.py)."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

import appliance
from appliance.errors import InvalidParameter, Unavailable
from appliance.image.context_scan import MAX_CPU_SECONDS, SPARE, Job, Scan
from appliance.image.dockerfile_steps import Step
from appliance.store import room_on

_COMMAND = (sys.executable, "-s", "-m", "appliance.image.context_scan")
_IDLE_SECONDS = 300
_CHECKED = 16 << 20  # bytes between two looks at the file system
_MOST_ANSWER = 64 << 20
# Child processes that read contexts at the same time. Each has its own bound of memory.
_MOST_READERS = 4


@dataclass(frozen=True, slots=True)
class SpooledContext:
    """A context that BuildKit can unpack. `folder` of the archive is the context, all of it if "". `steps`: see Scan."""

    archive: Path
    dockerfile: str
    folder: str = ""
    steps: list[Step] = field(default_factory=list)


class ContextSpool:
    """Keeps contexts in `scratch` while they are built. `limit`: bytes of one context."""

    def __init__(self, scratch: Path, limit: int) -> None:
        self._scratch = scratch
        self._limit = limit
        self._readers = trio.CapacityLimiter(_MOST_READERS)

    @asynccontextmanager
    async def receive(
        self, body: AsyncGenerator[bytes, None], dockerfile: str, target: str = ""
    ) -> AsyncIterator[SpooledContext]:
        """The context that arrives as a tar, plain or compressed, for a block.

        InvalidParameter with Docker's text for a context without the Dockerfile, that is no tar, too large, or too slow;
        Unavailable when the file system has no room for it.
        """
        async with self.keep(body) as received:
            rewritten = received.with_name("rewritten")
            async with self._readers:
                found = await _scan(Job(str(received), str(rewritten), dockerfile, target, self._limit))
            if found.error:
                raise InvalidParameter(found.error)
            if found.rewritten:
                received.unlink()
            archive = rewritten if found.rewritten else received
            yield SpooledContext(archive, found.dockerfile, found.folder, found.steps)

    @asynccontextmanager
    async def keep(self, body: AsyncGenerator[bytes, None]) -> AsyncIterator[Path]:
        """The body in a file, for a block. The errors are those of `receive`."""
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="build-") as folder:
            path = Path(folder) / "context"
            await self._write(body, path)
            yield path

    async def _write(self, body: AsyncGenerator[bytes, None], path: Path) -> None:
        size, unchecked = 0, _CHECKED
        with open(path, "wb") as file, trio.CancelScope() as scope:
            async with aclosing(body) as pieces:
                scope.deadline = trio.current_time() + _IDLE_SECONDS
                async for piece in pieces:
                    scope.deadline = trio.current_time() + _IDLE_SECONDS
                    size += len(piece)
                    unchecked += len(piece)
                    if size > self._limit:
                        raise InvalidParameter(
                            f"the build context is larger than {self._limit} bytes, see --builder-disk"
                        )
                    if unchecked >= _CHECKED:
                        unchecked = 0
                        if room_on(self._scratch) < SPARE:
                            raise Unavailable("no space left on device for the build context")
                    # A large write may wait for the disk.
                    await trio.to_thread.run_sync(file.write, piece) if len(piece) > 1 << 16 else file.write(piece)
        if scope.cancelled_caught:
            raise InvalidParameter(f"the build context did not arrive: nothing came for {_IDLE_SECONDS} s")


async def _scan(job: Job) -> Scan:
    """Read the context in a child process, which a hostile context can end. The end of the task ends the process."""
    done = await trio.run_process(
        _COMMAND,
        # The interpreter that runs now: its path may lead through a folder that vchd's user may not enter.
        executable="/proc/self/exe",
        stdin=msgspec.json.encode(job),
        capture_stdout=True,
        stderr=subprocess.DEVNULL,
        check=False,
        env={"PYTHONPATH": str(Path(appliance.__file__).parents[1]), "LC_ALL": "C.UTF-8"},
        cwd="/",
        deliver_cancel=_kill,
    )
    if done.returncode == -signal.SIGXCPU:
        raise InvalidParameter(f"the build context takes too long to read: more than {MAX_CPU_SECONDS} s of CPU time")
    if done.returncode or len(done.stdout) > _MOST_ANSWER:
        raise Unavailable(f"the build context could not be read: its reader ended with status {done.returncode}")
    return msgspec.json.decode(done.stdout, type=Scan)


async def _kill(process: trio.Process) -> None:
    process.kill()
