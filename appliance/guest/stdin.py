"""Stdin of a process, fed by whoever is attached; waits while the process does not run or does not read."""

from collections import deque

import trio

from appliance.guest.session import GuestSession
from protos.tether.v1 import stdio_pb2
from tether.rpc.status import RpcError

# As much as stdio.proto allows in a message: each costs a guest without KVM some milliseconds.
_PIECE = 256 << 10
# Kept until the process has it. The guest says how far it came once a MiB.
_UNDER_WAY = 4 << 20
_PAUSE = 0.05


class StdinPipe:
    def __init__(self) -> None:
        self._sender, self._receiver = trio.open_memory_channel[bytes](4)
        self._closed = False

    async def write(self, data: bytes) -> bool:
        """False when the process takes no more."""
        sender = self._sender
        try:
            for start in range(0, len(data), _PIECE):
                await sender.send(data[start : start + _PIECE])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    def close(self) -> None:
        """End of file for the process, once it has read what is under way."""
        self._sender.close()

    def renew(self) -> None:
        """A run is over: whoever still writes is told, the next run starts empty."""
        self._receiver.close()
        self._sender.close()
        self._sender, self._receiver = trio.open_memory_channel[bytes](4)

    async def run(self, session: GuestSession, process_id: str) -> None:
        """Feed the process until end of file, or until it reads no more. A call that breaks is taken up where it broke."""
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
        """One call. True when there is nothing more to feed."""
        done = False
        try:
            async with session.feed_stdin() as call, trio.open_nursery() as nursery:
                # The first message says which process; the answer where to go on.
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
    """What is written, in pieces, with those kept that the process has not taken yet."""

    def __init__(self, receiver: "trio.MemoryReceiveChannel[bytes]") -> None:
        self._receiver = receiver
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._sent = 0
        self._offset: int | None = None
        self._room = trio.Event()

    def taken(self, offset: int) -> None:
        """The process has all below `offset`. What its stdin got before this appliance came counts as well."""
        if self._offset is None:
            self._offset = offset
        while self._kept and self._offset < offset:
            piece = self._kept.popleft()
            size = min(len(piece), offset - self._offset)
            self._offset += size
            self._kept_bytes -= size
            if size < len(piece):
                self._kept.appendleft(piece[size:])
            else:
                self._sent = max(0, self._sent - 1)
        self._room.set()

    def rewind(self) -> None:
        """Begin again with the first piece that was not taken."""
        self._sent = 0

    async def next(self) -> bytes:
        """The next piece; b"" at the end. Waits while too much is under way."""
        if self._sent == len(self._kept):
            while self._kept_bytes >= _UNDER_WAY:
                self._room = trio.Event()
                await self._room.wait()
            try:
                piece = await self._receiver.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return b""
            self._kept.append(piece)
            self._kept_bytes += len(piece)
        piece = self._kept[self._sent]
        self._sent += 1
        return piece
