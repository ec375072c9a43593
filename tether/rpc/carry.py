"""Carries one connection over a call of Tunnel.Dial: bytes both ways, half close, end, and a bound on the bytes under way.

Both ends of the call run the same code: the tether with the call's server end, the appliance with the call's client end.
"""

import select
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from protos.tether.v1.tunnel_pb2 import Segment
from tether.rpc.status import Code, RpcError

# Bytes that one end may have under way before the other end has taken them (tunnel.proto), and the bytes of one segment.
WINDOW = 128 << 10
PIECE = 64 << 10
# Connections of one machine that may have data on its way into the link at a time. All other data on the link, such as stdio, waits
# for no more than this.
SENDERS = 2
# The kernel has no event for a socket that is half closed already, and is then closed completely.
_HANG_UP_SECONDS = 1.0


class SegmentPipe(Protocol):
    """One end of a call of Dial. Both methods raise RpcError when the call has failed."""

    async def send(self, segment: Segment) -> None: ...

    async def receive(self) -> list[Segment]:
        """Return the segments that are here, at least one; [] at the end of the call."""


async def carry(stream: trio.abc.HalfCloseableStream, pipe: SegmentPipe, senders: trio.CapacityLimiter) -> None:
    """Copy between a socket and a call until both directions have ended or one end is closed; then close the socket.

    `senders` is shared by all connections of a machine. RpcError when the call fails, when the other end breaks the protocol, or
    when a program sends file descriptors, which no other kernel can use.
    """
    await _Carrier(stream, pipe, senders).run()


class _Carrier:
    def __init__(self, stream: trio.abc.HalfCloseableStream, pipe: SegmentPipe, senders: trio.CapacityLimiter) -> None:
        self._stream = stream
        self._pipe = pipe
        self._senders = senders
        self._sending = trio.Lock()
        self._scope = trio.CancelScope()
        self._failure: RpcError | None = None
        # To the other end: what may still be sent, and whether the end was sent.
        self._credit = WINDOW
        self._credited = trio.Event()
        self._sent_end = False
        # From the other end: data that the socket has not taken, and all data that the other end has no credit for.
        self._queue: deque[bytes] = deque()
        self._outstanding = 0
        self._ended = self._closed = self._delivered_end = False
        self._arrived = trio.Event()

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                for step in (self._receive, self._deliver, self._collect):
                    nursery.start_soon(self._guard, step)
        finally:
            await trio.aclose_forcefully(self._stream)
        if self._failure is not None:
            raise self._failure

    async def _guard(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except RpcError as error:
            self._failure = error
            self._scope.cancel()

    async def _send(self, segment: Segment) -> bool:
        """Return whether the call still takes segments. How it has ended is what `_receive` learns."""
        async with self._sending:
            try:
                await self._pipe.send(segment)
            except RpcError:
                return False
        return True

    async def _finish(self) -> None:
        """End `run`. A segment on its way into the call goes first: a cancelled write ends the whole call of gRPC, and what it has."""
        async with self._sending:
            self._scope.cancel()

    # -- from the socket to the call ------------------------------------------------------------------------------

    async def _collect(self) -> None:
        try:
            while True:
                while not self._credit:
                    self._credited = trio.Event()
                    await self._credited.wait()
                data = await self._read(min(PIECE, self._credit))
                if not data:
                    break
                self._credit -= len(data)
                async with self._senders:
                    if not await self._send(Segment(data=data)):
                        return
            await self._send(Segment(end=True))
            self._sent_end = True
            await self._finish_if_done()
            await _wait_hung_up(self._stream)
        except (trio.BrokenResourceError, OSError):
            pass  # The program has closed its socket without reading all data.
        if await self._send(Segment(closed=True)):
            await self._finish()

    async def _read(self, most: int) -> bytes:
        if not isinstance(self._stream, trio.SocketStream):
            return bytes(await self._stream.receive_some(most))
        # Without room for descriptors, the kernel drops them, and reports that.
        data, _, flags, _ = await self._stream.socket.recvmsg(most)
        if flags & socket.MSG_CTRUNC:
            raise RpcError(Code.FAILED_PRECONDITION, "file descriptors cannot pass between a container and the host")
        return data

    # -- from the call to the socket ------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while batch := await self._pipe.receive():
            for segment in batch:
                self._take_untrusted(segment)
                await trio.lowlevel.checkpoint()
        self._ended = self._closed = True
        self._arrived.set()

    def _take_untrusted(self, segment: Segment) -> None:
        self._credit += segment.taken
        data = segment.data
        self._outstanding += len(data)
        if self._credit > WINDOW or self._outstanding > WINDOW or (data and self._ended):
            raise RpcError(Code.RESOURCE_EXHAUSTED, "the other end of a connection breaks the protocol")
        if data:
            self._queue.append(data)
        self._closed = self._closed or segment.closed
        self._ended = self._ended or segment.end or self._closed
        self._credited.set()
        self._arrived.set()

    async def _deliver(self) -> None:
        taken = 0
        reads = True
        while True:
            self._arrived = trio.Event()
            while self._queue:
                data = self._queue.popleft()
                if reads:
                    try:
                        await self._stream.send_all(data)
                    except (trio.BrokenResourceError, OSError):
                        # The program reads no more, but it may have written an answer before.
                        reads = False
                taken += len(data)
                if taken >= WINDOW // 2 and not self._ended:
                    self._outstanding -= taken
                    await self._send(Segment(taken=taken))
                    taken = 0
            if self._closed:
                await self._finish()
                return
            if self._ended and not self._delivered_end:
                self._delivered_end = True
                try:
                    await self._stream.send_eof()
                except (trio.BrokenResourceError, OSError):
                    pass
                await self._finish_if_done()
            await self._arrived.wait()

    async def _finish_if_done(self) -> None:
        if self._sent_end and self._delivered_end:
            await self._finish()


async def _wait_hung_up(stream: trio.abc.HalfCloseableStream) -> None:
    """Return when the other end of a socket is closed in both directions. Other kinds of streams do not report that."""
    if not isinstance(stream, trio.SocketStream):
        await trio.sleep_forever()
    poll = select.poll()
    poll.register(stream.socket.fileno(), 0)  # POLLHUP and POLLERR are always reported.
    while True:
        if poll.poll(0):
            return
        await trio.sleep(_HANG_UP_SECONDS)
