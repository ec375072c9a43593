"""The guest's gRPC server: one session's HTTP/2 connection, which starts, feeds and cancels calls.

The wire is gRPC over HTTP/2 (PROTOCOL-HTTP2.md of grpc): POST /package.Service/Method, messages with a five byte prefix, the
status in trailers. No compression is offered.
"""

import re
from collections.abc import Callable

import trio
from google.protobuf.message import Message

from tether.rpc import http2
from tether.rpc.call import Call, Method
from tether.rpc.status import Code, RpcError

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


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
        if ended and not call.method.streams_in:
            if call.method.is_async:
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
