"""The guest's gRPC server: one session's HTTP/2 connection, gRPC framing, handlers as trio tasks.

The wire is gRPC over HTTP/2 (PROTOCOL-HTTP2.md of grpc): POST /package.Service/Method, messages with a five byte prefix, the
status in trailers. No compression is offered. A handler is, by the method's kind:

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
from typing import Any

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
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


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


class Call:
    """One call as its handler sees it."""

    def __init__(
        self, session: "Session", stream: int, method: Method, metadata: http2.Headers, deadline: float | None
    ):
        self.metadata = metadata
        self._session = session
        self._stream = stream
        self._method = method
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
                message = self._method.request.FromString(bytes(memoryview(self._buffer)[5 : 5 + length]))
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
        headers.append(
            (b"grpc-message", urllib.parse.quote(error.message, safe=" ~!@#$^&*()_+-=[]{};':\",./<>?").encode())
        )
        if details := error.encode_details():
            headers.append((b"grpc-status-details-bin", base64.b64encode(details).rstrip(b"=")))
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
        self._finish(lambda: self.succeed(self._method.handler(self._request())))

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
        method = self._method
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


class Session:
    """One client's connection. `flush` is called when there is something to write; `nursery` runs the handlers."""

    def __init__(self, methods: dict[bytes, Method], nursery: trio.Nursery, flush: Callable[[], None]) -> None:
        self.http = http2.ServerConnection()
        self._methods = methods
        self._nursery = nursery
        self._write = flush
        self._calls: dict[int, Call] = {}
        self._receiving = False

    def receive(self, data: bytes) -> None:
        """Take bytes of the client; start, feed and cancel handlers."""
        self.http.receive_data(data)
        self._receiving = True
        self._take_events()
        self._receiving = False

    def _take_events(self) -> None:
        while (event := self.http.next_event()) is not None:
            match event:
                case http2.RequestReceived():
                    self._on_request(event)
                case http2.DataReceived(stream, data, size, ended):
                    self._on_data(stream, data, size, ended)
                case http2.StreamReset(stream):
                    call = self._calls.pop(stream, None)
                    if call is not None:
                        call.cancel()
                case http2.Writable(stream):
                    if stream in self._calls:
                        self._calls[stream].wake_writer()
                case http2.Closed():
                    self.close()

    def close(self) -> None:
        """The session is over: cancel its calls."""
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()

    def data_to_send(self, most: int) -> bytes:
        data = self.http.data_to_send(most)
        if data:
            self._take_events()
        return data

    def _on_request(self, event: http2.RequestReceived) -> None:
        headers = dict(event.headers)
        method = self._methods.get(headers[b":path"])
        refusal = None
        if headers[b":method"] != b"POST" or not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            self.http.send_headers(event.stream, [(b":status", b"415")], end=True)
            return
        deadline = None
        if method is None:
            refusal = RpcError(Code.UNIMPLEMENTED, f"unknown method {headers[b':path'].decode('utf-8', 'replace')}")
        elif b"grpc-timeout" in headers:
            timeout = _parse_timeout(headers[b"grpc-timeout"])
            if timeout is None:
                refusal = RpcError(Code.INTERNAL, "malformed grpc-timeout")
            else:
                deadline = trio.current_time() + timeout
        call = Call(self, event.stream, method or _NO_METHOD, event.headers, deadline)
        if refusal is not None:
            call.fail(refusal)
            return
        assert method is not None
        self._calls[event.stream] = call
        if method.streams_in:
            self._nursery.start_soon(call.run)
        if event.ended:
            self._on_data(event.stream, b"", 0, True)

    def _on_data(self, stream: int, data: bytes, size: int, ended: bool) -> None:
        call = self._calls.get(stream)
        if call is None:
            return
        try:
            call.feed_untrusted(data, size, ended)
        except RpcError as error:
            del self._calls[stream]
            call.cancel()
            call.fail(error)
            return
        if ended and not call._method.streams_in:
            if call._method.is_async:
                self._nursery.start_soon(call.run)
            else:
                call.run_now()
                self._calls.pop(stream, None)

    # -- for calls ------------------------------------------------------------------------------------------------

    def consumed(self, stream: int, size: int) -> None:
        if size:
            self.http.acknowledge(stream, size)
            self.flush()

    def outgoing_bytes(self, stream: int) -> int:
        return self.http.outgoing_bytes(stream)

    def ended(self, stream: int) -> None:
        self._calls.pop(stream, None)
        self.flush()

    def flush(self) -> None:
        # While received bytes are processed, answers wait, and leave together at the end.
        if not self._receiving:
            self._write()


def _parse_timeout(value: bytes) -> float | None:
    """`grpc-timeout`: at most eight digits and a unit; seconds, None when malformed."""
    if not re.fullmatch(rb"[0-9]{1,8}[HMSmun]", value):
        return None
    return int(value[:-1]) * _UNITS[value[-1:]]


def _no_handler(_: Message) -> Message:
    raise RpcError(Code.UNIMPLEMENTED, "unknown method")


_NO_METHOD = Method(_no_handler, Message, False, False, False)
