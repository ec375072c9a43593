"""One call of a gRPC connection that this process serves: messages in and out as bytes, within a budget of memory."""

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable
from typing import Protocol

from appliance.buildkit.budget import ByteBudget
from appliance.buildkit.channel import MAX_MESSAGE
from appliance.buildkit.errors import BuildkitError, as_buildkit_error
from appliance.buildkit.metadata import (
    Metadata,
    clean_metadata_untrusted,
    encode_metadata,
    encode_text,
    parse_timeout_untrusted,
)
from appliance.errors import VchError, unforeseen
from tether.rpc import http2
from tether.rpc.status import Code

log = logging.getLogger(__name__)

STREAM_WINDOW = 64 << 10
# Messages up to this size, prefix included, fit into the window at all times: half of it may be taken and not announced yet.
_UNRESERVED = STREAM_WINDOW // 2
_PREFIX = struct.Struct(">BI")
# Output of one call that waits to be sent: when it is full, the function that serves the call waits in `send`.
_HIGH_WATER = 256 << 10
_STALL_SECONDS = 60.0
_MOST_TRAILERS = 1 << 20
# What a header costs beside its bytes (RFC 9113 6.5.2).
_ENTRY = 32
_RESPONSE: http2.Headers = [(b":status", b"200"), (b"content-type", b"application/grpc")]


class CallConnection(Protocol):
    """What a call needs of the connection that carries it; `grpc_connection.GrpcConnection` is one."""

    http: http2.ServerConnection
    budget: ByteBudget

    def flush(self) -> None:
        """There may be something to write."""

    def end(self) -> None:
        """End the connection, because it holds too much memory."""


class ServerCall:
    """A call. `path` is "/package.Service/Method". Whoever serves it calls `receive` and `send`, and may call `finish`."""

    def __init__(self, connection: CallConnection, stream: int, headers: http2.Headers) -> None:
        self.stream = stream
        self.path = next(value for name, value in headers if name == b":path").decode("latin-1")
        self.task: asyncio.Task[None] | None = None
        self._headers = headers
        self._connection = connection
        self._buffer = bytearray()
        # The size of the reserved message at the start of `_buffer`; 0 if that is not reserved.
        self._wanted = 0
        # Bytes of `_buffer` behind it. The client may send as many more when they are acknowledged.
        self._unread = 0
        self._ended = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        # Bytes of the budget: of the message that is received or was received last, and of the one that is sent.
        self._reserved_in = 0
        self._reserved_out = 0
        self._moved = asyncio.get_running_loop().time()
        self._started = False
        self._finished = False

    # -- for the function that serves the call --------------------------------------------------------------------

    def metadata(self) -> Metadata:
        """The client's metadata without what belongs to the connection. BuildkitError when a value is malformed."""
        return clean_metadata_untrusted(self._headers)

    def timeout(self) -> float | None:
        """Seconds that the client gives the call, None without a limit. BuildkitError when malformed."""
        return parse_timeout_untrusted(self._headers)

    async def receive(self) -> bytes | None:
        """The client's next message, None after its last. The memory of the message before is given back."""
        self._give_in()
        while True:
            length = self._announced_untrusted()
            if length is not None:
                if _PREFIX.size + length > _UNRESERVED and not self._wanted:
                    await self._reserve(_PREFIX.size + length)
                if len(self._buffer) >= _PREFIX.size + length:
                    return self._take(length)
            if self._ended:
                if self._buffer:
                    raise BuildkitError(Code.INTERNAL, "the stream ended inside a message")
                return None
            self._arrived.clear()
            await self._arrived.wait()

    async def send(self, message: bytes) -> None:
        """Send one message; waits while too much of this call's output has not left."""
        size = _PREFIX.size + len(message)
        await self._wait_for_room(_HIGH_WATER)
        self._give_out()
        if size > _UNRESERVED:
            await self._connection.budget.outgoing.take(size)
            self._reserved_out = size
        self._moved = asyncio.get_running_loop().time()
        self.start(())
        http = self._connection.http
        http.send_data(self.stream, _PREFIX.pack(0, len(message)) + message)
        # It asks for an event when all has left.
        http.outgoing_bytes(self.stream)
        self._connection.flush()

    def start(self, metadata: Metadata) -> None:
        """Send the initial metadata, if that has not been sent."""
        if not self._started:
            self._started = True
            self._connection.http.send_headers(self.stream, _RESPONSE + encode_metadata(metadata))

    def finish(self, code: Code = Code.OK, text: str = "", trailers: Metadata = ()) -> None:
        """End the call. Nothing happens if it has ended. Trailers that exceed 1 MiB are left out."""
        if self._finished:
            return
        self._finished = True
        headers = [] if self._started else list(_RESPONSE)
        self._started = True
        headers.append((b"grpc-status", str(int(code)).encode()))
        if text:
            headers.append((b"grpc-message", encode_text(text)))
        encoded = encode_metadata(trailers)
        if _size(headers) + _size(encoded) <= _MOST_TRAILERS:
            headers += encoded
        self._connection.http.send_headers(self.stream, headers, end=True)
        self._connection.flush()

    def fail(self, error: VchError) -> None:
        """End the call with an error."""
        failure = as_buildkit_error(error)
        details: Metadata = [("grpc-status-details-bin", failure.details)] if failure.details else ()
        self.finish(failure.code, failure.text, details)

    # -- for the connection ---------------------------------------------------------------------------------------

    async def run(self, serve: "Callable[[ServerCall], Awaitable[None]]") -> None:
        """Serve the call and end it. Returns when the client has long messages that were sent."""
        try:
            await serve(self)
            self.finish()
        except VchError as error:
            self.fail(error)
        except asyncio.CancelledError:
            # If the client is still there, it is not the client who has ended the call.
            self.finish(Code.UNAVAILABLE, "the connection to BuildKit was closed")
            raise
        except Exception as error:
            log.exception("%s failed", self.path)
            self.fail(unforeseen(error))
        self._drop_input()
        while self._reserved_out:
            self._room.clear()
            await self._room.wait()

    def release(self) -> None:
        """Give all memory back; after `run`, which does not begin if its task is cancelled at once."""
        self._drop_input()
        self._give_out()

    def feed(self, data: bytes, size: int, ended: bool) -> None:
        """Take a DATA frame of `size` bytes, padding included."""
        self._moved = asyncio.get_running_loop().time()
        self._ended = self._ended or ended
        unread = 0
        if not self._finished:
            unread = len(data) - max(0, min(len(data), self._wanted - len(self._buffer)))
            self._buffer += data
            self._hold(unread)
        self._connection.http.acknowledge(self.stream, size - unread)
        self._arrived.set()

    def wake_writer(self) -> None:
        """The stream's output has left."""
        self._moved = asyncio.get_running_loop().time()
        self._give_out()
        self._room.set()

    def stalled(self) -> bool:
        """Whether the call holds reserved bytes, and the client has neither sent nor taken any of them for a minute."""
        held = len(self._buffer) < self._wanted or self._reserved_out > 0
        return held and asyncio.get_running_loop().time() - self._moved > _STALL_SECONDS

    # -- memory ---------------------------------------------------------------------------------------------------

    def _announced_untrusted(self) -> int | None:
        """The length of the message at the start of the buffer, None before its prefix is there. BuildkitError."""
        if len(self._buffer) < _PREFIX.size:
            return None
        compressed, length = _PREFIX.unpack_from(self._buffer)
        if compressed:
            raise BuildkitError(Code.UNIMPLEMENTED, "compressed messages are not supported")
        if length > MAX_MESSAGE:
            text = f"a message of {length} bytes is over the limit of {MAX_MESSAGE}"
            raise BuildkitError(Code.RESOURCE_EXHAUSTED, text)
        return int(length)

    async def _reserve(self, size: int) -> None:
        await self._connection.budget.incoming.take(size)
        self._reserved_in = self._wanted = size
        self._moved = asyncio.get_running_loop().time()
        # What is here is part of the reserved message: the client may send the rest.
        self._acknowledge(min(self._unread, size))

    def _take(self, length: int) -> bytes:
        size = _PREFIX.size + length
        message = bytes(memoryview(self._buffer)[_PREFIX.size : size])
        del self._buffer[:size]
        if not self._wanted:
            self._acknowledge(size)
        self._wanted = 0
        return message

    def _hold(self, change: int) -> None:
        if change:
            self._unread += change
            self._connection.budget.hold(self._connection.end, change)

    def _acknowledge(self, size: int) -> None:
        self._hold(-size)
        self._connection.http.acknowledge(self.stream, size)
        self._connection.flush()

    def _give_in(self) -> None:
        if self._reserved_in:
            self._connection.budget.incoming.give(self._reserved_in)
            self._reserved_in = 0

    def _give_out(self) -> None:
        if self._reserved_out:
            self._connection.budget.outgoing.give(self._reserved_out)
            self._reserved_out = 0

    def _drop_input(self) -> None:
        self._finished = True
        self._buffer.clear()
        self._wanted = 0
        self._acknowledge(self._unread)
        self._give_in()

    async def _wait_for_room(self, most: int) -> None:
        while self._connection.http.outgoing_bytes(self.stream) > most:
            self._room.clear()
            await self._room.wait()


def _size(headers: http2.Headers) -> int:
    return sum(len(name) + len(value) + _ENTRY for name, value in headers)
