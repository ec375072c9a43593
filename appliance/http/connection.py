"""One connection: heads tokenised by httptools with hard caps, bodies by length or chunks, no task of its own per request."""

import os
import re
import socket
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn

import httptools
import msgspec
import trio

from appliance.errors import InvalidParameter, ProtocolError
from appliance.http.readiness import Readiness
from appliance.http.stream import HijackedStream
from appliance.http.websocket import WebSocketStream, accept_header

MAX_HEAD = 64 << 10
MAX_JSON = 8 << 20
_RECEIVE = 64 << 10
# How long a client that still sends has for reading its answer.
_PARTING_SECONDS = 0.5
_REASONS = {
    200: b"OK", 201: b"Created", 204: b"No Content", 304: b"Not Modified", 400: b"Bad Request", 401: b"Unauthorized",
    403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed", 409: b"Conflict", 413: b"Request Entity Too Large",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 501: b"Not Implemented",
    503: b"Service Unavailable",
}  # fmt: skip
_FALSE = ("", "0", "no", "false", "none")


# Clients say the same again and again: heads without a body that were parsed before.
_heads: dict[bytes, tuple[str, str, dict[str, str]]] = {}
_HEADS = 512


class Disconnected(Exception):
    """The client is gone."""


class _Head:
    """httptools' callbacks."""

    __slots__ = ("headers", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        if key in ("content-length", "transfer-encoding", "host") and key in self.headers:
            raise ProtocolError(f"repeated header {key}")
        self.headers[key] = value.decode("latin-1")


class Request:
    """What was asked. `path` holds the parts that the route named, filled by the router."""

    def __init__(self, connection: "Connection", method: str, target: str, headers: dict[str, str]) -> None:
        self._connection = connection
        self.method = method
        self.target = target
        raw_path, _, raw_query = target.partition("?")
        self.raw_path = raw_path
        self._raw_query = raw_query
        self._query: dict[str, list[str]] | None = None
        self.headers = headers
        self.path: dict[str, str] = {}
        self.version = (0, 0)

    @property
    def query(self) -> dict[str, list[str]]:
        if self._query is None:
            try:
                self._query = urllib.parse.parse_qs(self._raw_query, keep_blank_values=True, max_num_fields=1000)
            except ValueError as error:
                raise InvalidParameter(f"malformed query: {error}") from error
        return self._query

    def text(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def flag(self, name: str, default: bool = False) -> bool:
        """Docker's idea of a boolean (moby httputils.BoolValue)."""
        if name not in self.query:
            return default
        return self.text(name).strip().lower() not in _FALSE

    def number(self, name: str) -> int | None:
        """An integer, None when absent. InvalidParameter when it is none."""
        if not (text := self.text(name)):
            return None
        try:
            return int(text)
        except ValueError as error:
            raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax') from error

    async def json(self) -> Any:
        """The body as JSON, None when there is no body. InvalidParameter for anything else."""
        body = await self._connection.read_body(MAX_JSON)
        if not body:
            return None
        kind = self.headers.get("content-type", "").partition(";")[0].strip()
        if kind != "application/json":
            raise InvalidParameter(
                f'unsupported Content-Type header ({kind}): must be "application/json"'
                if kind
                else "malformed Content-Type header (): mime: no media type"
            )
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidParameter(f"invalid JSON: {error}") from error

    def body(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes, unbounded: for archives."""
        return self._connection.stream_body()

    @asynccontextmanager
    async def while_connected(self) -> AsyncIterator[None]:
        """Cancel the block when the client goes away; for answers that may wait for long."""
        async with trio.open_nursery() as nursery:
            gone = False

            async def watch() -> None:
                nonlocal gone
                await self._connection.wait_gone()
                gone = True
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            yield
            nursery.cancel_scope.cancel()
        if gone:
            raise Disconnected


class Reply:
    """How to answer, once. `headers` go with every answer of the connection."""

    def __init__(self, connection: "Connection", method: str) -> None:
        self._connection = connection
        self._head_only = method == "HEAD"
        self.started = False
        self._chunked = False

    def _head(self, status: int, headers: bytes) -> bytes:
        self.started = True
        close = b"" if self._connection.keep_alive else b"Connection: close\r\n"
        reason = _REASONS.get(status, b"Status")
        return b"HTTP/1.1 %d %s\r\n%s%s%s\r\n" % (status, reason, self._connection.fixed, headers, close)

    async def json(self, status: int, value: Any) -> None:
        await self.raw(status, b"application/json", msgspec.json.encode(value) + b"\n")

    async def raw(self, status: int, content_type: bytes, body: bytes, headers: bytes = b"") -> None:
        """Answer with bytes; `headers` are further header lines, each with its end."""
        lines = b"Content-Type: %s\r\nContent-Length: %d\r\n%s" % (content_type, len(body), headers)
        head = self._head(status, lines)
        await self._connection.send(head if self._head_only else head + body)

    async def empty(self, status: int, headers: bytes = b"") -> None:
        """Answer without a body, with further header lines, each with its end."""
        length = b"" if status in (204, 304) else b"Content-Length: 0\r\n"
        await self._connection.send(self._head(status, length + headers))

    async def start(self, content_type: str, status: int = 200, headers: bytes = b"") -> None:
        """Begin a chunked answer; the head is flushed at once, with further header lines, each with its end."""
        self._chunked = True
        head = b"Content-Type: %s\r\nTransfer-Encoding: chunked\r\n%s" % (content_type.encode(), headers)
        await self._connection.send(self._head(status, head))

    async def write(self, data: bytes) -> None:
        if data:
            await self._connection.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def send_file(self, fd: int, position: int, size: int) -> None:
        """A piece of a file as chunks, by sendfile."""
        while size:
            piece = min(size, 8 << 20)
            await self._connection.send(b"%x\r\n" % piece)
            await self._connection.send_file(fd, position, piece)
            await self._connection.send(b"\r\n")
            position += piece
            size -= piece

    async def finish(self) -> None:
        """End an answer; called for every request."""
        if self._chunked:
            self._chunked = False
            await self._connection.send(b"0\r\n\r\n")

    @asynccontextmanager
    async def hijack(self, content_type: str, upgrade: bool) -> AsyncIterator[HijackedStream]:
        """Take the connection over: 101 for who asked to upgrade, else a 200 without length and without chunks."""
        kind = content_type.encode()
        if upgrade:
            line = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: %s\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" % kind
        else:
            line = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n" % kind
        self.started = True
        await self._connection.send(line + self._connection.fixed + b"\r\n")
        yield HijackedStream(*self._connection.take_over())

    @asynccontextmanager
    async def websocket(self, request: Request, *, binary: bool) -> AsyncIterator[WebSocketStream]:
        """Take the connection over for who asked for a WebSocket. InvalidParameter when it did not."""
        lines = accept_header(request.headers)
        self.started = True
        await self._connection.send(b"HTTP/1.1 101 Switching Protocols\r\n" + lines + self._connection.fixed + b"\r\n")
        yield WebSocketStream(*self._connection.take_over(), binary=binary)


Handler = Callable[[Request, Reply], Awaitable[None]]


class Connection:
    """Bytes in and out of one socket, with the body of the request at hand."""

    def __init__(self, sock: trio.socket.SocketType, fixed: bytes, readiness: Readiness) -> None:
        self.socket = sock
        self._readiness = readiness
        self._fd = sock.fileno()
        self.fixed = fixed
        self.keep_alive = True
        self._buffer = b""
        self._left: int | None = 0
        self._expect = False
        self._taken = False
        self._malformed = False

    async def send(self, data: bytes) -> None:
        # Straight to the descriptor: nearly always all of it fits, and trio's socket methods cost more than the call.
        try:
            written = os.write(self._fd, data)
        except BlockingIOError:
            written = 0
        except OSError as error:
            raise Disconnected from error
        if written == len(data):
            return
        view = memoryview(data)[written:]
        try:
            while view:
                view = view[await self.socket.send(view) :]
        except OSError as error:
            raise Disconnected from error

    async def send_file(self, fd: int, position: int, size: int) -> None:
        while size:
            try:
                sent = os.sendfile(self.socket.fileno(), fd, position, size)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.socket)
                continue
            except OSError as error:
                raise Disconnected from error
            if not sent:
                raise ProtocolError("a file became shorter while it was sent")
            position += sent
            size -= sent

    def take_over(self) -> tuple[trio.socket.SocketType, bytes]:
        """The socket, and what the client has sent behind its request."""
        self.keep_alive = False
        self._taken = True
        early, self._buffer = self._buffer, b""
        return self.socket, early

    async def _receive(self) -> bytes:
        while True:
            # Waiting first: between two requests of a client there is nearly always nothing yet.
            await self._readiness.wait(self._fd)
            try:
                data = os.read(self._fd, _RECEIVE)
            except BlockingIOError:
                self._readiness.drained(self._fd)
                continue
            except OSError:
                return b""
            if 0 < len(data) < _RECEIVE:
                self._readiness.drained(self._fd)
            return data

    async def wait_gone(self) -> None:
        """Return when the client has closed its end; whatever it sends meanwhile is kept for its next request."""
        while len(self._buffer) < MAX_HEAD:
            data = await self._receive()
            if not data:
                return
            self._buffer += data
        await trio.sleep_forever()

    async def part(self) -> None:
        """Let the client read its answer: an end while it still sends would be a reset, which takes the answer with it (RFC 9112 9.6)."""
        if self._taken or self._expect or (self._left == 0 and not self._malformed):
            return
        with suppress(OSError), trio.move_on_after(_PARTING_SECONDS):
            self.socket.shutdown(socket.SHUT_WR)
            while await self._receive():
                pass

    # -- heads ----------------------------------------------------------------------------------------------------

    async def next_request(self) -> Request | None:
        """The next request, None at the end of the connection. ProtocolError for what is no HTTP."""
        if self._left != 0:
            await self._drain()
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise ProtocolError("request head too large")
            data = await self._receive()
            if not data:
                return None
            self._buffer += data
        if end > MAX_HEAD:
            raise ProtocolError("request head too large")
        raw, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
        known = _heads.get(raw) if len(raw) < 1024 else None
        if known is None:
            request = self._parse_untrusted(raw)
            # Only reads: what comes with others may be a secret.
            if request.method in ("GET", "HEAD") and self._left == 0 and self.keep_alive and not self._expect:
                self._remember(raw, request)
            return request
        self._left = 0
        self._expect = False
        return Request(self, *known)

    @staticmethod
    def _remember(raw: bytes, request: Request) -> None:
        if len(_heads) >= _HEADS:
            _heads.clear()
        _heads[raw] = (request.method, request.target, request.headers)

    def _parse_untrusted(self, raw: bytes) -> Request:
        head = _Head()
        parser = httptools.HttpRequestParser(head)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass
        except (httptools.HttpParserError, UnicodeDecodeError) as error:
            cause = error.__context__
            raise cause if isinstance(cause, ProtocolError) else ProtocolError(f"malformed request: {error}") from error
        headers = head.headers
        # httptools' own answer is right only after the body.
        self.keep_alive = parser.get_http_version() != "1.0"
        if "connection" in headers:
            options = [option.strip() for option in headers["connection"].lower().split(",")]
            self.keep_alive = "close" not in options and (self.keep_alive or "keep-alive" in options)
        self._left = 0
        if "content-length" in headers:
            if not re.fullmatch(r"[0-9]{1,18}", headers["content-length"]):
                raise ProtocolError("malformed Content-Length")
            self._left = int(headers["content-length"])
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                raise ProtocolError(f"unsupported transfer encoding {headers['transfer-encoding']}")
            self._left = None
        self._expect = headers.get("expect", "").lower() == "100-continue"
        return Request(self, parser.get_method().decode("latin-1"), head.url.decode("latin-1"), headers)

    # -- bodies ---------------------------------------------------------------------------------------------------

    async def _fill(self) -> None:
        if self._expect:
            self._expect = False
            await self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = await self._receive()
        if not data:
            raise Disconnected
        self._buffer += data

    async def stream_body(self) -> AsyncGenerator[bytes, None]:
        while self._left is not None and self._left:
            if not self._buffer:
                await self._fill()
            piece = self._buffer[: self._left]
            self._buffer = self._buffer[len(piece) :]
            self._left -= len(piece)
            yield piece
        while self._left is None:
            line = await self._line()
            size_text = line.partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", size_text):
                self._broken("malformed chunk")
            size = int(size_text, 16)
            if not size:
                while await self._line():
                    pass
                self._left = 0
                return
            while size:
                if not self._buffer:
                    await self._fill()
                piece = self._buffer[:size]
                self._buffer = self._buffer[len(piece) :]
                size -= len(piece)
                yield piece
            if await self._line():
                self._broken("malformed chunk")

    def give_up(self) -> None:
        """What the client sends makes no sense from here on."""
        self.keep_alive = False
        self._left = 0
        self._malformed = True

    def _broken(self, text: str) -> NoReturn:
        self.give_up()
        raise ProtocolError(text)

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > 4096:
                self._broken("malformed chunk")
            await self._fill()
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    async def read_body(self, most: int) -> bytes:
        parts = []
        size = 0
        async for piece in self.stream_body():
            size += len(piece)
            if size > most:
                self.keep_alive = False
                raise InvalidParameter(f"request body larger than {most} bytes")
            parts.append(piece)
        return b"".join(parts)

    async def _drain(self) -> None:
        """Skip what the handler left of the last body, a little of it; else the connection ends."""
        if self._expect:
            raise Disconnected
        left = 1 << 20
        async for piece in self.stream_body():
            left -= len(piece)
            if left < 0:
                raise Disconnected


async def serve_connection(sock: trio.socket.SocketType, handler: Handler, fixed: bytes, readiness: Readiness) -> None:
    """Serve requests until the client or a hijack ends the connection. `fixed`: header lines of every answer."""
    connection = Connection(sock, fixed, readiness)
    with sock:
        readiness.add(sock.fileno())
        try:
            await _serve(connection, handler)
            await connection.part()
        finally:
            readiness.remove(sock.fileno())


async def _serve(connection: Connection, handler: Handler) -> None:
    with suppress(Disconnected):
        while connection.keep_alive:
            try:
                request = await connection.next_request()
            except ProtocolError as error:
                connection.give_up()
                await Reply(connection, "GET").json(400, {"message": str(error)})
                return
            if request is None:
                return
            reply = Reply(connection, request.method)
            await handler(request, reply)
            await reply.finish()
