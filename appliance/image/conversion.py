"""Converts layers in child processes with bounded memory and CPU time (converter.py): a hostile layer can end its converter, not vchd.

A converter takes one layer after another, since each start of Python takes 0.1 s. An idle converter ends after some seconds.
"""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterable
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

import appliance
from appliance.errors import ProtocolError, Unavailable, one_by_itself
from appliance.image.converter import LENGTH, MAX_CPU_SECONDS, Job, Reply
from appliance.image.erofs import NO_LIMITS, Limits, QuotaExceeded
from appliance.image.layer import FilePart, Layer

BlobSource = AsyncIterable[bytes] | FilePart
"""A compressed or plain tar: its pieces, or where it is in a file."""

_COMMAND = (sys.executable, "-s", "-m", "appliance.image.converter")
MOST_CONVERSIONS = max(2, os.cpu_count() or 1)
"""Conversions at the same time."""
_FRAME = 1 << 20
_IDLE_SECONDS = 10.0


class _Converter:
    """One child process."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._received = bytearray()

    @classmethod
    async def start(cls) -> "_Converter":
        environment = {"PYTHONPATH": str(Path(appliance.__file__).parents[1]), "LC_ALL": "C.UTF-8"}
        process = await trio.lowlevel.open_process(
            _COMMAND,
            # The interpreter that runs now: its path may lead through a folder that vchd's user may not enter.
            executable="/proc/self/exe",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd="/",
        )
        # A user without privileges may have used up its share of large pipes.
        if isinstance(process.stdin, trio.lowlevel.FdStream):
            with suppress(OSError):
                fcntl.fcntl(process.stdin.fileno(), fcntl.F_SETPIPE_SZ, _FRAME)
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def begin(self, job: Job) -> bool:
        """Send a job. False if the process has ended."""
        return await self._send(msgspec.json.encode(job)) and await self._receive() is not None

    async def convert(self, blob: BlobSource) -> Reply:
        """Send the blob, and return the reply, which may come before the blob's end. An error of `blob` is raised."""
        with one_by_itself():
            async with trio.open_nursery() as nursery:
                if not isinstance(blob, FilePart):
                    nursery.start_soon(self._feed, blob)
                reply = await self._receive()
                nursery.cancel_scope.cancel()
        if reply is None:
            raise self._failure(await self._process.wait())
        return msgspec.json.decode(reply, type=Reply)

    async def _feed(self, pieces: AsyncIterable[bytes]) -> None:
        async for piece in pieces:
            for start in range(0, len(piece), _FRAME):
                if not await self._send(piece[start : start + _FRAME]):
                    return  # it has failed, and its reply says how
        await self._send(b"")

    async def _send(self, frame: bytes) -> bool:
        """Send a frame. False if the process has ended."""
        try:
            await self._stdin.send_all(LENGTH.pack(len(frame)) + frame)
        except trio.BrokenResourceError:
            return False
        return True

    async def _receive(self) -> bytes | None:
        """The next frame. None if the process has ended."""
        while True:
            if len(self._received) >= LENGTH.size:
                end = LENGTH.size + LENGTH.unpack_from(self._received)[0]
                if len(self._received) >= end:
                    frame = bytes(self._received[LENGTH.size : end])
                    del self._received[:end]
                    return frame
            data = await self._stdout.receive_some()
            if not data:
                return None
            self._received += data

    @staticmethod
    def _failure(code: int) -> ProtocolError | Unavailable:
        """The error of a process that ended without a reply."""
        if code == -signal.SIGXCPU:
            return ProtocolError(f"the layer takes too long to read: more than {MAX_CPU_SECONDS} s of CPU time")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return Unavailable(f"failed to register layer: the process that converts it {how}")

    async def kill(self) -> None:
        """End the process, and wait for its end, even if the caller is cancelled."""
        with trio.CancelScope(shield=True):
            self._process.kill()
            await self._process.wait()
            await self._stdin.aclose()
            await self._stdout.aclose()


class Converters:
    """The converters of vchd, which end with `nursery`. As many convert at the same time as there are CPUs, at least two."""

    def __init__(self, nursery: trio.Nursery, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._nursery = nursery
        self._idle_seconds = idle_seconds
        self._limiter = trio.CapacityLimiter(MOST_CONVERSIONS)
        # Each idle converter with the scope in which a task waits to end the converter.
        self._idle: dict[_Converter, trio.CancelScope] = {}

    async def convert(self, blob: BlobSource, disk: Path, recipe: Path, limits: Limits = NO_LIMITS) -> Layer:
        """See convert_untrusted. Unavailable if the converter was killed or has crashed.

        After an error, or when the caller is cancelled, the converter has ended and there are no files.
        """
        async with self._limiter:
            job = Job(str(disk), str(recipe), limits, blob if isinstance(blob, FilePart) else None)
            try:
                converter = await self._begin(job)
                try:
                    reply = await converter.convert(blob)
                except BaseException:
                    await converter.kill()
                    raise
            except BaseException:
                # A process that was killed leaves its files, also if its answer to the job was on the way.
                disk.unlink(missing_ok=True)
                recipe.unlink(missing_ok=True)
                raise
            if reply.layer is not None:
                self._keep(converter)
                return reply.layer
            await converter.kill()
        if reply.exceeded:
            raise QuotaExceeded(reply.exceeded)
        if reply.errno:
            raise OSError(reply.errno, os.strerror(reply.errno))
        raise ProtocolError(reply.text)

    async def _begin(self, job: Job) -> _Converter:
        """A converter that has the job: an idle converter that still runs, or a new converter."""
        while True:
            reused = bool(self._idle)
            converter = self._take() if reused else await _Converter.start()
            try:
                if await converter.begin(job):
                    return converter
            except BaseException:
                await converter.kill()
                raise
            await converter.kill()
            if not reused:
                raise Unavailable("failed to register layer: the process that converts it does not start")

    def _take(self) -> _Converter:
        converter, waiting = self._idle.popitem()
        waiting.cancel()
        return converter

    def _keep(self, converter: _Converter) -> None:
        waiting = self._idle[converter] = trio.CancelScope()
        self._nursery.start_soon(self._end_idle, converter, waiting)

    async def _end_idle(self, converter: _Converter, waiting: trio.CancelScope) -> None:
        """End a converter when its time is over or the nursery is cancelled, unless another conversion has taken it."""
        try:
            with waiting:
                await trio.sleep(self._idle_seconds)
        finally:
            if self._idle.get(converter) is waiting:
                del self._idle[converter]
                await converter.kill()
