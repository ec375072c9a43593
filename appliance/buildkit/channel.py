"""A gRPC channel to buildkitd whose messages stay bytes: calls from trio, and calls for code that runs on the build loop."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

import grpc
import grpc.aio
import trio

from appliance.buildkit.dial import Dial, Target
from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.metadata import Metadata
from tether.rpc.bridge import CallAbandoned, LoopThread
from tether.rpc.status import Code

# BuildKit's own bound (defaults.go of containerd): 16 MiB in both directions.
MAX_MESSAGE = 16 << 20
# The trailers of a failed Solve hold the whole Dockerfile. Beyond grpcio's default of 16 KiB the call would be "Stream removed".
_MAX_METADATA = 16 << 20
# Received messages of a stream that may wait for their reader on trio, bytes.
_READ_AHEAD = 1 << 20
_MESSAGE_BYTES = 128
# What calls under way get at the end of a channel.
_CLOSE_SECONDS = 1.0
_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", _MAX_METADATA),
    ("grpc.absolute_max_metadata_size", _MAX_METADATA),
    ("grpc.enable_retries", 0),
    # Two channels with the same address are two connections: a descriptor's number in an address may come again.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.client_idle_timeout_ms", (1 << 31) - 1),
    # Without it grpcio sends what goes to the builder through the proxy that vchd's environment names for pulls.
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
    ("grpc.http2.max_frame_size", 64 << 10),
    ("grpc.http2.bdp_probe", 0),
]


class RawCall(Protocol):
    """grpcio's call that streams in both directions, with messages as bytes (grpc.aio.StreamStreamCall)."""

    async def write(self, message: bytes) -> None:
        """Send a message; waits while the server does not take it."""

    async def done_writing(self) -> None:
        """No message follows."""

    async def read(self) -> Any:
        """The next answer, grpc.aio.EOF at the end of the call. AioRpcError when the call failed."""

    async def initial_metadata(self) -> Metadata:
        """Waits for the first answer or the end of the call."""

    async def trailing_metadata(self) -> Metadata:
        """Waits for the end of the call, as `code` and `details` do."""

    async def code(self) -> grpc.StatusCode: ...

    async def details(self) -> str | None: ...

    def cancel(self) -> bool: ...


class RawStream:
    """The answers of a call, read ahead up to a bound. Its methods are for trio."""

    def __init__(self, loop: LoopThread, call: grpc.aio.UnaryStreamCall) -> None:
        self._loop = loop
        self._call = call
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._changed = asyncio.Event()
        self._ended = False
        self._error: BuildkitError | None = None

    async def pump(self) -> None:
        """Read the call to its end. On the build loop."""
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                self._queue.append(message)
                self._queued += _MESSAGE_BYTES + len(message)
                self._changed.set()
                while self._queued > _READ_AHEAD:
                    self._changed.clear()
                    await self._changed.wait()
            self._error = await error_of(self._call)
        except grpc.aio.AioRpcError as error:
            self._error = translate(error)
        except asyncio.CancelledError:
            self._error = BuildkitError(Code.CANCELLED, "the call was ended")
        finally:
            self._ended = True
            self._changed.set()

    async def _take(self) -> list[bytes]:
        while not self._queue and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        batch = list(self._queue)
        self._queue.clear()
        self._queued = 0
        self._changed.set()
        return batch

    async def receive(self) -> list[bytes]:
        """The answers that are here, at least one; [] at the end of the call. BuildkitError when it failed."""
        batch = await self._loop.run(self._take)
        if not batch and self._error is not None:
            raise self._error
        return batch


class BuildkitChannel:
    """Calls of one buildkitd, each named by its path ("/moby.buildkit.v1.Control/Solve").

    A call fails with UNAVAILABLE at once if buildkitd cannot be reached, and when it goes away.
    """

    def __init__(self, loop: LoopThread, channel: grpc.aio.Channel) -> None:
        self.loop = loop
        self._channel = channel

    @classmethod
    @asynccontextmanager
    async def open(cls, loop: LoopThread, dial: Dial) -> AsyncIterator["BuildkitChannel"]:
        """A channel to where `dial` leads. The end of the block ends its calls."""
        async with dial.open() as target:
            channel = await loop.run(lambda: connect(target))
            try:
                yield cls(loop, channel)
            finally:
                with trio.CancelScope(shield=True):
                    await loop.run(lambda: channel.close(_CLOSE_SECONDS))

    # -- for code on the build loop -------------------------------------------------------------------------------

    def start(self, path: str, metadata: Metadata = (), timeout: float | None = None) -> RawCall:
        """A call of any kind: messages go in by `write` and `done_writing`, and come out by `read`. `timeout` in seconds.

        ValueError when the metadata has names or values that gRPC does not allow.
        """
        with _while_open():
            call: RawCall = self._channel.stream_stream(path)(metadata=tuple(metadata), timeout=timeout)
        return call

    async def exchange(self, path: str, request: bytes, timeout: float | None = None, metadata: Metadata = ()) -> bytes:
        """One request, one answer. BuildkitError when it fails."""
        try:
            with _while_open():
                call = self._channel.unary_unary(path)(request, metadata=tuple(metadata), timeout=timeout)
            answer: bytes = await call
            return answer
        except grpc.aio.AioRpcError as error:
            raise translate(error) from error

    # -- for trio -------------------------------------------------------------------------------------------------

    async def call(self, path: str, request: bytes, timeout: float | None = None, metadata: Metadata = ()) -> bytes:
        """One request, one answer. BuildkitError when it fails. Cancelling this cancels the call."""
        try:
            return await self.loop.run(lambda: self.exchange(path, request, timeout, metadata))
        except CallAbandoned as error:
            raise BuildkitError(Code.UNAVAILABLE, "the connection to BuildKit was closed") from error

    @asynccontextmanager
    async def stream(self, path: str, request: bytes, timeout: float | None = None) -> AsyncIterator[RawStream]:
        """One request, a stream of answers. Leaving the block cancels what is left of the call."""

        async def start() -> tuple[RawStream, grpc.aio.UnaryStreamCall, asyncio.Task[None]]:
            with _while_open():
                call = self._channel.unary_stream(path)(request, timeout=timeout)
            stream = RawStream(self.loop, call)
            return stream, call, asyncio.create_task(stream.pump())

        stream, call, pump = await self.loop.run(start)

        async def stop() -> None:
            call.cancel()
            pump.cancel()
            await asyncio.wait([pump])

        try:
            yield stream
        finally:
            with trio.CancelScope(shield=True):
                await self.loop.run(stop)


@contextmanager
def _while_open() -> Iterator[None]:
    """BuildkitError UNAVAILABLE when the channel is closed: a build may outlive its buildkitd."""
    try:
        yield
    except grpc.aio.UsageError as error:
        raise BuildkitError(Code.UNAVAILABLE, "BuildKit has ended") from error


async def connect(target: Target) -> grpc.aio.Channel:
    """A channel of grpcio for messages of BuildKit. On the build loop."""
    if target.tls is None:
        return grpc.aio.insecure_channel(target.address, options=_OPTIONS)
    tls = target.tls
    credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
    options = [*_OPTIONS, ("grpc.ssl_target_name_override", tls.name)]
    return grpc.aio.secure_channel(target.address, credentials, options=options)


async def error_of(call: RawCall | grpc.aio.UnaryStreamCall) -> BuildkitError | None:
    """Why an ended call has failed; None if it has not. On the build loop."""
    code = await call.code()
    if code is grpc.StatusCode.OK:
        return None
    return _error(code, await call.details(), await call.trailing_metadata())


def translate(error: grpc.aio.AioRpcError) -> BuildkitError:
    """grpcio's error as ours."""
    return _error(error.code(), error.details(), error.trailing_metadata())


def _error(code: grpc.StatusCode, text: str | None, trailers: Metadata | None) -> BuildkitError:
    details = b""
    for name, value in trailers or ():
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            details = value
    return BuildkitError(Code(code.value[0]), text or "", details)
