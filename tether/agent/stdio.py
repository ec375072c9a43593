"""Output of processes, spooled until the appliance has stored it, and their stdin, which the appliance feeds."""

import errno
import os
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

import trio

from protos.tether.v1 import process_pb2, stdio_pb2
from tether.rpc.call import Call
from tether.rpc.status import Code, RpcError

_READ = 256 << 10
_BATCH = 512 << 10
# A shorter read from a terminal may be the beginning of a line: wait this long for the rest, at most this often.
_LINE, _LINE_SECONDS, _LINE_TRIES = 1024, 0.001, 3
# Memory of a record beside its bytes: counted, so that a program that writes single bytes cannot fill the guest's memory.
_OVERHEAD = 128
# Report the progress of stdin to its feeder after this many bytes.
_REPORT_EVERY = 1 << 20
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
        # The scopes of pumps that wait for more, and whether more is expected.
        self.idle: set[trio.CancelScope] = set()
        self.is_complete = False
        self._news = trio.Event()
        self._room = trio.Event()

    def _wake(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def wait_room(self) -> None:
        """Return when a record may be put: the writer in the guest blocks until then."""
        while self._size >= self._limit and not self._drop_oldest:
            # stdout and stderr may both wait: they share one event, so that both are woken.
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

    def end_input(self) -> None:
        """All writers that count are gone: the pumps end when they have read what is there, even if somebody holds the other end."""
        self.is_complete = True
        for scope in self.idle:
            scope.cancel()

    def close(self, exit: process_pb2.ExitStatus | None = None) -> None:
        """The output is complete: the process has ended with `exit`, or its start has failed."""
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
            if batch and size + len(record.data) + _OVERHEAD > _BATCH:
                break
            batch.append(record)
            size += len(record.data) + _OVERHEAD
        return batch

    async def wait_news(self) -> None:
        await self._news.wait()


async def _finish_line(fd: int, data: bytes) -> bytes:
    """A read from a terminal may return a line before it is complete: wait a little for its end."""
    for _ in range(_LINE_TRIES):
        if len(data) >= _LINE or data.endswith(b"\n"):
            break
        await trio.sleep(_LINE_SECONDS)
        try:
            data += os.read(fd, _READ)
        except OSError:
            pass  # no more data yet, or the end, which the next read reports again
    return data


async def pump_out(fd: int, stream: "stdio_pb2.Stream", spool: Spool, *, terminal: bool = False) -> None:
    """Move a pipe or terminal into the spool until its last writer is gone, or `end_input`. Owns the descriptor."""
    with trio.CancelScope() as scope:
        await _pump(fd, stream, spool, scope, terminal=terminal)


async def _pump(fd: int, stream: "stdio_pb2.Stream", spool: Spool, scope: trio.CancelScope, *, terminal: bool) -> None:
    waited = True
    try:
        while True:
            await spool.wait_room()
            is_last = spool.is_complete
            if not waited:
                # A spool that drops its oldest records always has room, and a program that floods always has data.
                await trio.lowlevel.checkpoint()
            try:
                data = os.read(fd, _READ)
            except BlockingIOError:
                if is_last:
                    return
                spool.idle.add(scope)
                await trio.lowlevel.wait_readable(fd)
                spool.idle.discard(scope)
                waited = True
                continue
            except OSError as error:
                if error.errno != errno.EIO:  # a terminal's master returns EIO after its last slave has closed
                    raise
                return
            if not data:
                return
            if terminal:
                data = await _finish_line(fd, data)
            spool.put(stream, data)
            if is_last and not terminal:
                return  # A read takes all that a pipe has.
            waited = False
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
        """Return True once the pipe has taken all data, False when the process no longer reads."""
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
    """Returns the stdin (None without one) and the spool of a process. RpcError NOT_FOUND when there is no such process."""

    def __call__(self, process_id: str) -> tuple[Stdin | None, Spool]: ...


class StdioService:
    """Stdio and Log of protos/tether/v1/stdio.proto."""

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
        reported = stdin.written
        await call.send(stdio_pb2.AttachResponse(written=reported))
        request: stdio_pb2.AttachRequest | None = first
        while request is not None:
            if request.data:
                if not await stdin.write(request.data):
                    await call.send(stdio_pb2.AttachResponse(written=stdin.written, broken=True))
                    return
                if stdin.written - reported >= _REPORT_EVERY:
                    reported = stdin.written
                    await call.send(stdio_pb2.AttachResponse(written=reported))
            if request.close:
                stdin.close()
                return
            request = await call.receive()

    async def read(self, request: stdio_pb2.ReadRequest, call: Call) -> None:
        async with aclosing(self.follow(request.id, request.offset, follow=request.follow)) as output:
            async for records in output:
                await call.send(records)

    async def follow(
        self, process_id: str, offset: int, *, follow: bool = True
    ) -> AsyncGenerator[stdio_pb2.Records, None]:
        """Yield the output of a process from `offset` on; with `follow` until it ends, and its exit status last."""
        _, spool = self._find(process_id)
        if offset < spool.acknowledged:
            raise RpcError(Code.OUT_OF_RANGE, f"offset {offset} is below {spool.acknowledged}, the first that is kept")
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
