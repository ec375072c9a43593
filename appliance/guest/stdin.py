"""Stdin of a process, fed by whoever is attached; waits while the process does not run or does not read."""

import trio

from appliance.guest.session import GuestSession
from protos.tether.v1 import stdio_pb2
from tether.rpc.status import RpcError

# As much as stdio.proto allows in a message: each costs a guest without KVM some milliseconds.
_PIECE = 256 << 10


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
        """Feed the process until end of file, or until it reads no more."""
        receiver = self._receiver
        try:
            async with session.feed_stdin() as call, trio.open_nursery() as nursery:

                async def watch() -> None:
                    while batch := await call.receive():
                        if any(response.broken for response in batch):
                            receiver.close()
                            break
                    nursery.cancel_scope.cancel()

                # The first message says which process; then the guest may answer at any time.
                await call.send(stdio_pb2.AttachRequest(id=process_id))
                nursery.start_soon(watch)
                async for data in receiver:
                    await call.send(stdio_pb2.AttachRequest(data=data))
                await call.send(stdio_pb2.AttachRequest(close=True))
                await call.done_sending()
        except* (RpcError, trio.ClosedResourceError):
            receiver.close()
