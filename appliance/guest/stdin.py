"""Stdin of a process, fed by the attached clients; writes wait while the process does not run or does not read."""

from collections import deque

import trio

from appliance.guest.session import GuestSession
from protos.tether.v1 import stdio_pb2
from tether.rpc.status import RpcError

# The largest message that stdio.proto allows: each costs a guest without KVM some milliseconds.
_PIECE = 256 << 10
# The most data that is under way before the process has read it. The guest reports its progress once per MiB.
_UNDER_WAY = 4 << 20
_PAUSE = 0.05


class StdinPipe:
    def __init__(self) -> None:
        self._sender, self._receiver = trio.open_memory_channel[bytes](4)
        self._closed = False

    async def write(self, data: bytes) -> bool:
        """Write data for the process. False when the process reads no more."""
        sender = self._sender
        try:
            for start in range(0, len(data), _PIECE):
                await sender.send(data[start : start + _PIECE])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    def close(self) -> None:
        """End of file for the process, after the data that is under way."""
        self._sender.close()

    def renew(self) -> None:
        """The run is over: pending writes fail, the next run starts with an empty pipe."""
        self._receiver.close()
        self._sender.close()
        self._sender, self._receiver = trio.open_memory_channel[bytes](4)

    async def run(self, session: GuestSession, process_id: str) -> None:
        """Feed the process until end of file, or until it reads no more. A broken call is continued where it broke."""
        receiver = self._receiver
        source = _Source(receiver)
        try:
            while True:
                if await self._feed(session, process_id, source):
                    return
                await trio.sleep(_PAUSE)
        finally:
            receiver.close()

    async def _feed(self, session: GuestSession, process_id: str, source: "_Source") -> bool:
        """One call. True when everything is fed."""
        done = False
        try:
            async with session.feed_stdin() as call, trio.open_nursery() as nursery:
                # The first message names the process; the answer tells the offset to continue at.
                await call.send(stdio_pb2.AttachRequest(id=process_id))

                async def watch() -> None:
                    nonlocal done
                    started = False
                    while batch := await call.receive():
                        source.taken(batch[-1].written)
                        if any(response.broken for response in batch):
                            break
                        if not started:
                            started = True
                            nursery.start_soon(push)
                    done = True
                    nursery.cancel_scope.cancel()

                async def push() -> None:
                    source.rewind()
                    while data := await source.next():
                        await call.send(stdio_pb2.AttachRequest(data=data))
                    await call.send(stdio_pb2.AttachRequest(close=True))
                    await call.done_sending()

                await watch()
        except* RpcError as group:
            done = not session.broke(group)
        return done


class _Source:
    """The written data in pieces. Pieces stay until the process has read them, so that a broken call can be repeated."""

    def __init__(self, receiver: "trio.MemoryReceiveChannel[bytes]") -> None:
        self._receiver = receiver
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._sent = 0
        self._offset: int | None = None
        self._room = trio.Event()

    def taken(self, offset: int) -> None:
        """The process has read all data below `offset`, which also counts data from before a restart of the daemon."""
        if self._offset is None:
            self._offset = offset
        while self._unread and self._offset < offset:
            piece = self._unread.popleft()
            size = min(len(piece), offset - self._offset)
            self._offset += size
            self._unread_bytes -= size
            if size < len(piece):
                self._unread.appendleft(piece[size:])
            else:
                self._sent = max(0, self._sent - 1)
        self._room.set()

    def rewind(self) -> None:
        """Begin again with the first piece that the process has not read."""
        self._sent = 0

    async def next(self) -> bytes:
        """The next piece; b"" at the end. Waits while too much data is unread."""
        if self._sent == len(self._unread):
            while self._unread_bytes >= _UNDER_WAY:
                self._room = trio.Event()
                await self._room.wait()
            try:
                piece = await self._receiver.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return b""
            self._unread.append(piece)
            self._unread_bytes += len(piece)
        piece = self._unread[self._sent]
        self._sent += 1
        return piece
