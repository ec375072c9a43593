"""Converts layers in child processes with bounded memory (converter.py): a hostile layer can end its converter, not vchd.

A converter takes one layer after another, since each start of Python takes 0.1 s. An idle converter ends after some seconds.
"""

import atexit
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import trio

import appliance
from appliance.errors import ProtocolError, Unavailable, one_by_itself
from appliance.image.converter import Job, Reply, read_frame, write_frame
from appliance.image.erofs import NO_LIMITS, Limits, QuotaExceeded
from appliance.image.layer import FilePart, Layer, Source

_COMMAND = (sys.executable, "-s", "-m", "appliance.image.converter")
_FRAME = 1 << 20
_IDLE_SECONDS = 10.0


@asynccontextmanager
async def source_of(pieces: AsyncGenerator[bytes, None]) -> AsyncIterator[Source]:
    """A source of what a generator yields, for use in a thread that trio has started. Closes the generator.

    If the generator fails, the block is cancelled, so that a layer never ends where its sender broke off; the error is raised then.
    """
    sender, receiver = trio.open_memory_channel[bytes](2)

    async def feed() -> None:
        async with aclosing(pieces):
            async for piece in pieces:
                await sender.send(piece)
        sender.close()

    with one_by_itself():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            yield received(receiver)
            nursery.cancel_scope.cancel()


def received(channel: "trio.MemoryReceiveChannel[bytes]") -> Source:
    """A source that receives pieces from a channel. For use in a thread that trio has started."""

    def source() -> bytes:
        try:
            return trio.from_thread.run(channel.receive)
        except trio.EndOfChannel:
            return b""

    return source


class _Converter:
    """One child process."""

    def __init__(self) -> None:
        environment = {"PYTHONPATH": str(Path(appliance.__file__).parents[1]), "LC_ALL": "C.UTF-8"}
        self._process = subprocess.Popen(
            _COMMAND,
            # The interpreter that runs now: its path may lead through a folder that vchd's user may not enter.
            executable="/proc/self/exe",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            cwd="/",
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        # A user without privileges may have used up its share of large pipes.
        with suppress(OSError):
            fcntl.fcntl(self._stdin, fcntl.F_SETPIPE_SZ, _FRAME)

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self, job: Job) -> bool:
        """Send a job. False if the process has ended."""
        try:
            write_frame(self._stdin, msgspec.json.encode(job))
        except OSError:
            return False
        return read_frame(self._stdout) is not None

    def feed(self, source: Source) -> Reply:
        """Send the blob, and return the reply."""
        try:
            while data := source():
                for start in range(0, len(data), _FRAME):
                    write_frame(self._stdin, data[start : start + _FRAME])
            write_frame(self._stdin, b"")
        except BrokenPipeError:
            pass  # it has failed, and its reply says how
        return self.reply()

    def reply(self) -> Reply:
        """Wait for the reply. Unavailable if the process ends without one."""
        reply = read_frame(self._stdout)
        if reply is None:
            self.end()
            code = self._process.returncode
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            raise Unavailable(f"failed to register layer: the process that converts it {how}")
        return msgspec.json.decode(reply, type=Reply)

    def end(self) -> None:
        """Close the pipes and wait for the end of the process."""
        self._stdin.close()
        self._process.wait()
        self._stdout.close()

    def kill(self) -> None:
        self._process.kill()
        self.end()


class Converters:
    """The converters of this process. Threads may use it at the same time; the caller bounds how many."""

    def __init__(self, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._idle: list[_Converter] = []
        self._timer: threading.Timer | None = None

    def convert(self, source: Source, disk: Path, recipe: Path, limits: Limits = NO_LIMITS) -> Layer:
        """See convert_untrusted. Blocking. Unavailable if the converter was killed or has crashed."""
        blob = source if isinstance(source, FilePart) else None
        converter = self._begin(Job(str(disk), str(recipe), limits, blob))
        try:
            reply = converter.reply() if blob is not None else converter.feed(source)
        except BaseException:
            converter.kill()
            # A process that was killed leaves its files.
            disk.unlink(missing_ok=True)
            recipe.unlink(missing_ok=True)
            raise
        if reply.layer is None:
            converter.end()
            if reply.exceeded:
                raise QuotaExceeded(reply.exceeded)
            if reply.errno:
                raise OSError(reply.errno, os.strerror(reply.errno))
            raise ProtocolError(reply.text)
        self._keep(converter)
        return reply.layer

    def _begin(self, job: Job) -> _Converter:
        while True:
            with self._lock:
                converter = self._idle.pop() if self._idle else None
            if converter is None:
                break
            if converter.begin(job):
                return converter
            converter.kill()
        converter = _Converter()
        if not converter.begin(job):
            converter.kill()
            raise Unavailable("failed to register layer: the process that converts it does not start")
        return converter

    def _keep(self, converter: _Converter) -> None:
        with self._lock:
            self._idle.append(converter)
            if self._timer is None:
                self._timer = threading.Timer(self._idle_seconds, self.close)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """End the idle converters."""
        with self._lock:
            idle, self._idle = self._idle, []
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
        for converter in idle:
            converter.end()


CONVERTERS = Converters()
atexit.register(CONVERTERS.close)
