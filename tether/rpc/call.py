"""One gRPC call in the guest: messages in and out, and its handler as a trio task.

A handler is, by the method's kind:

    unary            def|async def m(request) -> response          (a plain function costs no task)
    server stream    async def m(request, call)                    call.send(response)...
    client stream    async def m(call) -> response                 async for request in call
    both             async def m(call)

A handler fails with RpcError. It is cancelled when the client cancels, the deadline passes, or the session ends.
"""

import base64
import inspect
import logging
import re
import struct
import urllib.parse
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from tether.rpc import http2
from tether.rpc.status import Code, RpcError

log = logging.getLogger(__name__)

MAX_MESSAGE = 4 << 20
# A stream's handler waits while this much of its output has not left.
_HIGH_WATER = 128 << 10
_PREFIX = struct.Struct(">BI")
# Bytes of a failure's text, and of its details in base64: together they fit into the metadata that the client takes.
_MOST_TEXT = 4096
_MOST_DETAILS = 16 << 10


@dataclass(frozen=True, slots=True)
class Method:
    handler: Callable[..., Any]
    request: type[Message]
    streams_in: bool
    streams_out: bool
    is_async: bool


def methods_of(service: ServiceDescriptor, implementation: object) -> dict[bytes, Method]:
    """Bind a service to an object with a method in snake_case for each of its methods; {path: Method}."""
    bound: dict[bytes, Method] = {}
    for method in service.methods:
        handler = getattr(implementation, re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower(), None)
        if handler is None:
            continue  # answered with UNIMPLEMENTED, as any unknown method
        bound[f"/{service.full_name}/{method.name}".encode()] = Method(
            handler,
            GetMessageClass(method.input_type),
            method.client_streaming,
            method.server_streaming,
            inspect.iscoroutinefunction(handler),
        )
    return bound


class Session(Protocol):
    """What a call needs of the client's connection that carries it; `tether.rpc.server.Session` is one."""

    http: http2.ServerConnection

    def consumed(self, stream: int, size: int) -> None:
        """A handler has taken `size` received bytes of the stream: the client may send as many more."""

    def outgoing_bytes(self, stream: int) -> int:
        """Bytes of the stream that wait to be sent."""

    def ended(self, stream: int) -> None:
        """The call is over."""

    def flush(self) -> None:
        """Send what can be sent."""


class Call:
    """One call as its handler sees it."""

    def __init__(self, session: Session, stream: int, method: Method, metadata: http2.Headers, deadline: float | None):
        self.metadata = metadata
        self._session = session
        self._stream = stream
        self.method = method
        self._deadline = deadline
        self._scope = trio.CancelScope()
        self._buffer = bytearray()
        self._messages: deque[tuple[Message, int]] = deque()
        self._unread = 0
        self._ended = False
        self._wake = trio.Event()
        self._room = trio.Event()
        self._headers_sent = False

    # -- for handlers ---------------------------------------------------------------------------------------------

    def __aiter__(self) -> "Call":
        return self

    async def __anext__(self) -> Any:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def receive(self) -> Any:
        """Return the client's next message, None after its last."""
        while not self._messages:
            if self._ended:
                if self._buffer:
                    raise RpcError(Code.INTERNAL, "the stream ended inside a message")
                return None
            self._wake = trio.Event()
            await self._wake.wait()
        message, size = self._messages.popleft()
        self._session.consumed(self._stream, size)
        return message

    async def send(self, message: Message) -> None:
        """Send one message; waits while too much of this call's output has not left."""
        self._put(message)
        if self._session.outgoing_bytes(self._stream) > _HIGH_WATER:
            self._session.flush()
            while self._session.outgoing_bytes(self._stream) > _HIGH_WATER:
                self._room = trio.Event()
                await self._room.wait()
        else:
            self._session.flush()

    async def drain(self) -> None:
        """Return when all output of this call so far is in the link."""
        while self._session.outgoing_bytes(self._stream):
            self._room = trio.Event()
            await self._room.wait()

    # -- for the session ------------------------------------------------------------------------------------------

    def _put(self, message: Message) -> None:
        body = message.SerializeToString()
        if len(body) > MAX_MESSAGE:
            raise RpcError(
                Code.RESOURCE_EXHAUSTED, f"a message of {len(body)} bytes is over the limit of {MAX_MESSAGE}"
            )
        self._start_response()
        self._session.http.send_data(self._stream, _PREFIX.pack(0, len(body)) + body)

    def _start_response(self) -> None:
        if not self._headers_sent:
            self._headers_sent = True
            self._session.http.send_headers(
                self._stream, [(b":status", b"200"), (b"content-type", b"application/grpc")]
            )

    def feed_untrusted(self, data: bytes, size: int, ended: bool) -> None:
        """Take request bytes. RpcError when they are not gRPC messages."""
        self._buffer += data
        self._ended = self._ended or ended
        # The window of an incomplete message opens at once. A complete message opens it when the handler takes the message.
        self._unread += size
        while len(self._buffer) >= 5:
            compressed, length = _PREFIX.unpack_from(self._buffer)
            if compressed:
                raise RpcError(Code.UNIMPLEMENTED, "compressed messages are not supported")
            if length > MAX_MESSAGE:
                raise RpcError(
                    Code.RESOURCE_EXHAUSTED, f"a message of {length} bytes is over the limit of {MAX_MESSAGE}"
                )
            if len(self._buffer) < 5 + length:
                break
            try:
                message = self.method.request.FromString(bytes(memoryview(self._buffer)[5 : 5 + length]))
            except DecodeError as error:
                raise RpcError(Code.INTERNAL, "a message cannot be decoded") from error
            del self._buffer[: 5 + length]
            self._messages.append((message, self._unread))
            self._unread = 0
        if self._buffer and self._unread:
            self._session.http.acknowledge(self._stream, self._unread)
            self._unread = 0
        self._wake.set()

    def fail(self, error: RpcError) -> None:
        headers: http2.Headers = []
        if not self._headers_sent:
            headers += [(b":status", b"200"), (b"content-type", b"application/grpc")]
        headers.append((b"grpc-status", str(int(error.code)).encode()))
        text = error.message.encode("utf-8", "replace")[:_MOST_TEXT].decode("utf-8", "ignore")
        headers.append((b"grpc-message", urllib.parse.quote(text, safe=" ~!@#$^&*()_+-=[]{};':\",./<>?").encode()))
        details = base64.b64encode(error.encode_details()).rstrip(b"=")
        if 0 < len(details) <= _MOST_DETAILS:
            headers.append((b"grpc-status-details-bin", details))
        self._headers_sent = True
        self._session.http.send_headers(self._stream, headers, end=True)

    def succeed(self, response: Message | None) -> None:
        if response is not None:
            self._put(response)
        self._start_response()
        self._session.http.send_headers(self._stream, [(b"grpc-status", b"0")], end=True)

    def wake_writer(self) -> None:
        self._room.set()

    def cancel(self) -> None:
        self._scope.cancel()

    def run_now(self) -> None:
        """A unary method whose handler is a plain function."""
        self._finish(lambda: self.succeed(self.method.handler(self._request())))

    def _request(self) -> Message:
        if not self._messages:
            raise RpcError(Code.INTERNAL, "a request message is missing")
        message, size = self._messages.popleft()
        self._session.consumed(self._stream, size)
        return message

    def _finish(self, step: Callable[[], None]) -> None:
        try:
            step()
        except RpcError as error:
            self.fail(error)
        except Exception as error:
            log.exception("a handler failed")
            self.fail(RpcError(Code.INTERNAL, f"{type(error).__name__}: {error}"))

    async def run(self) -> None:
        method = self.method
        response: Message | None = None
        error: BaseException | None = None
        with self._scope:
            if self._deadline is not None:
                self._scope.deadline = self._deadline
            try:
                if method.streams_in:
                    response = await method.handler(self)
                elif method.streams_out:
                    await method.handler(self._request(), self)
                else:
                    response = await method.handler(self._request())
            except Exception as caught:
                error = caught
        if self._scope.cancelled_caught:
            expired = self._deadline is not None and trio.current_time() >= self._deadline
            error = RpcError(Code.DEADLINE_EXCEEDED if expired else Code.CANCELLED, "the call was ended")

        def step() -> None:
            if error is not None:
                raise error
            self.succeed(response)

        self._finish(step)
        self._session.ended(self._stream)
