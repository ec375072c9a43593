"""The appliance's gRPC client: grpcio's asyncio channel, joined to a link by a socket, called from trio."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
import trio
from google.protobuf.message import Message

from tether.rpc.bridge import CallAbandoned, LoopThread
from tether.rpc.grpcio_socket import GrpcioSocket, listen_in_private
from tether.rpc.status import Code, RpcError
from tether.transport import FastPath, Line, LineClosed, LineFlooded

Out = TypeVar("Out", bound=Message)

MAX_MESSAGE = 4 << 20
# Received messages of a stream that may wait for their reader, bytes: then the stream's own window closes.
_READ_AHEAD = 512 << 10
# What a message takes beside its bytes: a guest may send empty messages, too.
_MESSAGE_BYTES = 128
_MAX_METADATA = 32 << 10
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # Trailers with error details: above the first value grpcio may refuse a call, above the second it does.
    ("grpc.max_metadata_size", _MAX_METADATA),
    ("grpc.absolute_max_metadata_size", 2 * _MAX_METADATA),
    ("grpc.default_authority", "tether"),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Also how long a guest may take for its first SETTINGS: many that boot on few cores are slow.
    ("grpc.min_reconnect_backoff_ms", 60_000),
    ("grpc.client_idle_timeout_ms", (1 << 31) - 1),
    ("grpc.enable_retries", 0),
    # Windows that cover a guest's slow answers; without them a stream crawls at one 64 KiB window a round trip.
    ("grpc.http2.lookahead_bytes", 1 << 20),
    ("grpc.http2.max_frame_size", 64 << 10),
    ("grpc.http2.bdp_probe", 0),
    # A guest may be paused, suspended or on its way to another host: silence is no failure.
    ("grpc.keepalive_time_ms", (1 << 31) - 1),
]


# grpcio's text for a write that failed because the transport broke. No server sends this text.
_WRITE_FAILED = "Internal error from Core"


def _error_of(error: grpc.RpcError) -> RpcError:
    details = b""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            details = value
    return _failure(error.code(), error.details() or "", details)


def _failure(code: grpc.StatusCode, message: str, details: bytes = b"") -> RpcError:
    if code is grpc.StatusCode.INTERNAL and message == _WRITE_FAILED:
        return RpcError(Code.UNAVAILABLE, "the link was reset")
    return RpcError.decode_untrusted(code.value[0], message, details)


@dataclass(frozen=True, slots=True)
class _TooLong:
    """In place of a message that was not parsed: parsed, a message of many small parts takes fifty times its size."""

    size: int


class ServerStream(Generic[Out]):
    """The responses of a call, read ahead up to a bound."""

    def __init__(self, loop: LoopThread, call: Any) -> None:
        self._loop = loop
        self.call = call
        self._queue: deque[Out] = deque()
        self._queued = 0
        self._changed = asyncio.Event()
        self._ended = False
        self._error: RpcError | None = None

    async def _pump(self) -> None:
        try:
            while True:
                message = await self.call.read()
                if message is grpc.aio.EOF:
                    break
                if isinstance(message, _TooLong):
                    self._error = RpcError(
                        Code.RESOURCE_EXHAUSTED, f"the guest sends a message of {message.size} bytes"
                    )
                    break
                self._queue.append(message)
                self._queued += _MESSAGE_BYTES + message.ByteSize()
                self._changed.set()
                while self._queued > _READ_AHEAD:
                    self._changed.clear()
                    await self._changed.wait()
            code = grpc.StatusCode.OK if self._error is not None else await self.call.code()
            if code is not grpc.StatusCode.OK:
                self._error = _failure(code, await self.call.details() or "")
        except grpc.RpcError as error:
            self._error = _error_of(error)
        except asyncio.CancelledError:
            self._error = RpcError(Code.CANCELLED, "the call was ended")
        finally:
            self._ended = True
            self._changed.set()

    async def _take(self) -> list[Out]:
        while not self._queue and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        batch = list(self._queue)
        self._queue.clear()
        self._queued = 0
        self._changed.set()
        return batch

    async def receive(self) -> list[Out]:
        """Return the messages that are here, at least one; [] at the end of the call. RpcError when it failed."""
        batch = await self._loop.run(self._take)
        if not batch and self._error is not None:
            raise self._error
        return batch

    async def send(self, message: Message) -> None:
        """Send a request message (calls that stream requests); waits while the guest does not take it."""
        try:
            await self._loop.run(lambda: self.call.write(message))
        except grpc.RpcError as error:
            raise _error_of(error) from error
        except (asyncio.InvalidStateError, CallAbandoned) as error:
            raise RpcError(Code.CANCELLED, "the call has ended") from error

    async def done_sending(self) -> None:
        """No more requests: a half close."""
        try:
            await self._loop.run(lambda: self.call.done_writing())
        except (grpc.RpcError, asyncio.InvalidStateError, CallAbandoned) as error:
            raise RpcError(Code.CANCELLED, "the call has ended") from error


class Channel:
    """Calls into one guest. `run` must be running; calls made before the guest answers wait for it, up to their timeout."""

    def __init__(self, loop: LoopThread, line: Line, *, window: int = 1 << 20) -> None:
        self._loop = loop
        self._line = line
        self._window = window
        self._grpc: grpc.aio.Channel | None = None
        self._opened = trio.Event()
        self._socket: GrpcioSocket | None = None
        self.sessions = 0
        self.closed = False
        # Why this end has hung up; "" when it has not.
        self.fault = ""

    # -- calls ----------------------------------------------------------------------------------------------------

    async def unary(self, path: str, request: Message, response: type[Out], *, timeout: float | None = None) -> Out:
        """One request, one response. RpcError when it fails; `timeout` in seconds also covers waiting for the guest."""
        began = trio.current_time()
        channel = await self._ready(timeout)
        if timeout is not None:
            timeout = max(0.0, timeout - (trio.current_time() - began))

        async def call() -> Out:
            method = channel.unary_unary(path, request_serializer=_serialize, response_deserializer=response.FromString)
            result: Out = await method(request, timeout=timeout, wait_for_ready=True)
            return result

        try:
            return await self._loop.run(call)
        except grpc.RpcError as error:
            raise _error_of(error) from error
        except CallAbandoned as error:
            raise RpcError(Code.UNAVAILABLE, str(error)) from error

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        request: Message | None,
        response: type[Out],
        *,
        timeout: float | None = None,
        most: int = MAX_MESSAGE,
    ) -> AsyncIterator[ServerStream[Out]]:
        """A call that streams responses; with `request` None also requests. Leaving the block cancels what is left of it.

        A response of more than `most` bytes ends the call (RpcError RESOURCE_EXHAUSTED).
        """
        channel = await self._ready(timeout)

        def parse(data: bytes) -> Out | _TooLong:
            return response.FromString(data) if len(data) <= most else _TooLong(len(data))

        async def start() -> tuple[ServerStream[Out], asyncio.Task[None]]:
            if request is None:
                call = channel.stream_stream(path, _serialize, parse)(timeout=timeout, wait_for_ready=True)
            else:
                call = channel.unary_stream(path, _serialize, parse)(request, timeout=timeout, wait_for_ready=True)
            stream = ServerStream[Out](self._loop, call)
            return stream, asyncio.create_task(stream._pump())

        stream, pump = await self._loop.run(start)

        async def stop() -> None:
            stream.call.cancel()
            pump.cancel()
            await asyncio.wait([pump])

        try:
            yield stream
        finally:
            with trio.CancelScope(shield=True):
                await self._loop.run(stop)

    async def _ready(self, timeout: float | None) -> grpc.aio.Channel:
        with trio.move_on_after(timeout if timeout is not None else float("inf")):
            await self._opened.wait()
        if self.closed:
            raise RpcError(Code.UNAVAILABLE, "the channel to the guest is closed")
        if self._grpc is None:
            raise RpcError(Code.DEADLINE_EXCEEDED, "the guest does not answer")
        return self._grpc

    # -- the line -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry the channel until its line closes. Ends all calls then."""
        listener, place = listen_in_private()
        joined = self._socket = GrpcioSocket(self._line, self._window, partial(self._on_opened, place))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(joined.accept_loop, trio.socket.from_stdlib_socket(listener))
                await joined.linked.run()
        except* LineFlooded as group:
            self.fault = str(_first(group))
        except* LineClosed:
            # Whichever task wrote or read last notices it: the end of the line ends all of them.
            pass
        finally:
            listener.close()
            os.close(place)
            self._line.close()
            self.closed = True
            self._opened.set()
            if self._grpc is not None:
                channel = self._grpc
                with trio.CancelScope(shield=True):
                    await self._loop.run(lambda: channel.close())

    def attach(self, line: Line) -> FastPath | None:
        """Continue over a faster line while it lasts. When the channel is not running, close the line and return None."""
        if self._socket is None or self.closed:
            line.close()
            return None
        return self._socket.linked.attach(line)

    def reset_link(self) -> None:
        """End the link's session; calls under way fail with UNAVAILABLE, a new session opens by itself."""
        if self._socket is not None:
            self._socket.reset()

    async def _on_opened(self, place: int) -> None:
        self.sessions += 1
        if self._grpc is None:

            async def make() -> grpc.aio.Channel:
                return grpc.aio.insecure_channel(f"unix:/proc/self/fd/{place}", options=_OPTIONS)

            self._grpc = await self._loop.run(make)
            self._opened.set()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
