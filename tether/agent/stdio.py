"""What a process writes is kept here until the appliance has it safe; what it reads comes from the appliance."""

import errno
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

import trio

from protos.tether.v1 import process_pb2, stdio_pb2
from tether.rpc.server import Call
from tether.rpc.status import Code, RpcError

_READ = 256 << 10
_BATCH = 512 << 10
# A terminal's output that may be the beginning of a line.
_LINE, _LINE_SECONDS, _LINE_TRIES = 1024, 0.001, 3
# What a record costs beside its bytes: a program that writes single bytes must not fill the guest's memory.
_OVERHEAD = 128
# How often the feeder of stdin is told how far its bytes came.
_SAY = 1 << 20
STDOUT, STDERR = stdio_pb2.STDOUT, stdio_pb2.STDERR


class Spool:
    """Output records, each byte with an offset, bounded: [acknowledged, written)."""

    def __init__(self, limit: int, drop_oldest: bool) -> None:
        self._limit = limit
        self._drop_oldest = drop_oldest
        self._records: deque[stdio_pb2.Record] = deque()
        self._size = 0
        self.acknowledged = 0
        self.written = 0
        self.closed = False
        self.exit: process_pb2.ExitStatus | None = None
        self._news = trio.Event()
        self._room = trio.Event()

    def _wake(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def wait_room(self) -> None:
        """Return when a record may be put: the writer in the guest blocks until then."""
        while self._size >= self._limit and not self._drop_oldest:
            # Both streams may wait: they share one event, or the one that waited first would never be woken.
            if self._room.is_set():
                self._room = trio.Event()
            await self._room.wait()

    def put(self, stream: "stdio_pb2.Stream", data: bytes) -> None:
        record = stdio_pb2.Record(stream=stream, time_ns=time.time_ns(), offset=self.written, data=data)
        self._records.append(record)
        while self._drop_oldest and self._size >= self._limit and len(self._records) > 1:
            oldest = self._records.popleft()
            self._size -= len(oldest.data) + _OVERHEAD
            self._records[0].dropped = oldest.dropped + len(oldest.data)
        self._size += len(data) + _OVERHEAD
        self.written += len(data)
        self._wake()

    def close(self, exit: process_pb2.ExitStatus | None = None) -> None:
        """No more will be put: the process has ended with `exit`, or was never started."""
        self.closed = True
        self.exit = exit
        self._wake()

    def acknowledge(self, offset: int) -> None:
        self.acknowledged = max(self.acknowledged, min(offset, self.written))
        while self._records and self._records[0].offset + len(self._records[0].data) <= self.acknowledged:
            self._size -= len(self._records.popleft().data) + _OVERHEAD
        if self._size < self._limit:
            self._room.set()

    def read(self, offset: int) -> list[stdio_pb2.Record]:
        """Return records from `offset` on, up to a batch; the first is cut if the offset lies inside it."""
        batch: list[stdio_pb2.Record] = []
        size = 0
        for record in self._records:
            end = record.offset + len(record.data)
            if end <= offset:
                continue
            if record.offset < offset:
                cut = stdio_pb2.Record()
                cut.CopyFrom(record)
                cut.data = record.data[offset - record.offset :]
                cut.offset = offset
                record = cut
            if batch and size + len(record.data) > _BATCH:
                break
            batch.append(record)
            size += len(record.data)
        return batch

    async def wait_news(self) -> None:
        await self._news.wait()


async def _finish_line(fd: int, data: bytes) -> bytes:
    """The kernel hands a terminal's line over before its end: give its writer the time to finish it."""
    for _ in range(_LINE_TRIES):
        if len(data) >= _LINE or data.endswith(b"\n"):
            break
        await trio.sleep(_LINE_SECONDS)
        try:
            data += os.read(fd, _READ)
        except OSError:
            pass  # nothing more yet, or the end, which the next read finds again
    return data


async def pump_out(fd: int, stream: "stdio_pb2.Stream", spool: Spool, *, terminal: bool = False) -> None:
    """Move a pipe or terminal into the spool until its last writer is gone. Owns the descriptor."""
    try:
        while True:
            await spool.wait_room()
            try:
                data = os.read(fd, _READ)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(fd)
                continue
            except OSError as error:
                if error.errno != errno.EIO:  # what a terminal's master gives after its last slave
                    raise
                return
            if not data:
                return
            if terminal:
                data = await _finish_line(fd, data)
            spool.put(stream, data)
    finally:
        trio.lowlevel.notify_closing(fd)
        os.close(fd)


class Stdin:
    """The writing end of a process's stdin."""

    def __init__(self, fd: int, *, terminal: bool = False) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._terminal = terminal
        self.written = 0
        self.fed = False

    async def write(self, data: bytes) -> bool:
        """Return once the process's pipe has taken it all; False when nobody reads any more."""
        view = memoryview(data)
        while view:
            if self._fd < 0:
                return False
            try:
                taken = os.write(self._fd, view)
                view = view[taken:]
                self.written += taken
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._fd)
            except OSError:
                return False
        return True

    def close(self) -> None:
        if self._fd >= 0 and not self._terminal:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
        self._fd = -1


class Finder(Protocol):
    """How a process's stdio is found. RpcError NOT_FOUND when there is no such process."""

    def __call__(self, process_id: str) -> tuple[Stdin | None, Spool]: ...


class StdioService:
    """Stdio and Log of protos/tether/v1/stdio.proto. `find` gives a process's (stdin or None, spool)."""

    def __init__(self, find: Finder) -> None:
        self._find = find

    async def attach(self, call: Call) -> None:
        first = await call.receive()
        if first is None:
            return
        stdin, _ = self._find(first.id)
        if stdin is None:
            raise RpcError(Code.FAILED_PRECONDITION, f"process {first.id} has no stdin")
        if stdin.fed:
            raise RpcError(Code.FAILED_PRECONDITION, f"stdin of process {first.id} is being fed by another call")
        stdin.fed = True
        try:
            await self._feed(call, stdin, first)
        finally:
            stdin.fed = False

    async def _feed(self, call: Call, stdin: Stdin, first: stdio_pb2.AttachRequest) -> None:
        said = stdin.written
        await call.send(stdio_pb2.AttachResponse(written=said))
        request: stdio_pb2.AttachRequest | None = first
        while request is not None:
            if request.data:
                if not await stdin.write(request.data):
                    await call.send(stdio_pb2.AttachResponse(written=stdin.written, broken=True))
                    return
                if stdin.written - said >= _SAY:
                    said = stdin.written
                    await call.send(stdio_pb2.AttachResponse(written=said))
            if request.close:
                stdin.close()
                return
            request = await call.receive()

    async def read(self, request: stdio_pb2.ReadRequest, call: Call) -> None:
        async for records in self.follow(request.id, request.offset, follow=request.follow):
            await call.send(records)

    async def follow(self, process_id: str, offset: int, *, follow: bool = True) -> AsyncIterator[stdio_pb2.Records]:
        """A process's output from `offset` on, and with `follow` how it ended."""
        _, spool = self._find(process_id)
        if offset < spool.acknowledged:
            raise RpcError(Code.OUT_OF_RANGE, f"offset {offset} is below {spool.acknowledged}, which is gone")
        while True:
            batch = spool.read(offset)
            if batch:
                offset = batch[-1].offset + len(batch[-1].data)
            if follow and spool.closed and offset >= spool.written and spool.exit is not None:
                yield stdio_pb2.Records(records=batch, exit=spool.exit)
                return
            if batch:
                yield stdio_pb2.Records(records=batch)
            elif spool.closed or not follow:
                return
            else:
                await spool.wait_news()

    def ack(self, request: stdio_pb2.AckRequest) -> stdio_pb2.AckResponse:
        self._find(request.id)[1].acknowledge(request.offset)
        return stdio_pb2.AckResponse()
