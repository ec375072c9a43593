"""The answer to one request, as a handler writes it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import msgspec

from appliance.http.connection import Connection
from appliance.http.request import Request
from appliance.http.stream import HijackedStream
from appliance.http.websocket import WebSocketStream, accept_header

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_FILE_CHUNK = 8 << 20


class Reply:
    """Answers once: by `json`, `raw` or `empty`; by `start`, `write` and `finish`; or by taking the connection over.

    `head_only`: the request is HEAD. `chunked`: the client understands chunks, which HTTP/1.0 does not have.
    """

    def __init__(self, connection: Connection, *, head_only: bool = False, chunked: bool = True) -> None:
        self._connection = connection
        self.head_only = head_only
        self._understands_chunks = chunked
        self._in_chunks = False
        self.started = False

    def _head(self, status: int, headers: bytes) -> bytes:
        self.started = True
        close = b"" if self._connection.keep_alive else b"Connection: close\r\n"
        return b"%s%s%s%s\r\n" % (_STATUS_LINES[status], self._connection.common_headers(), headers, close)

    async def json(self, status: int, value: Any) -> None:
        """Answer with a value as JSON."""
        await self.raw(status, b"application/json", msgspec.json.encode(value) + b"\n")

    async def raw(self, status: int, content_type: bytes, body: bytes, headers: bytes = b"") -> None:
        """Answer with bytes. `headers` are further header lines, each with its CRLF."""
        lines = b"Content-Type: %s\r\nContent-Length: %d\r\n%s" % (content_type, len(body), headers)
        head = self._head(status, lines)
        await self._connection.send(head if self.head_only else head + body)

    async def empty(self, status: int, headers: bytes = b"") -> None:
        """Answer without a body. `headers` are further header lines, each with its CRLF."""
        length = b"" if status in (204, 304) else b"Content-Length: 0\r\n"
        await self._connection.send(self._head(status, length + headers))

    async def start(
        self, content_type: str, status: int = 200, headers: bytes = b"", length: int | None = None
    ) -> None:
        """Send the head of an answer whose body follows by `write`. `headers` are further header lines, each with its CRLF.

        With `length`, the caller writes as many bytes, or ends the connection.
        """
        lines = b"Content-Type: %s\r\n" % content_type.encode()
        if length is not None:
            lines += b"Content-Length: %d\r\n" % length
        elif self._understands_chunks:
            self._in_chunks = not self.head_only
            lines += b"Transfer-Encoding: chunked\r\n"
        else:
            # The end of the connection is the end of the body (RFC 9112 6.3).
            self._connection.keep_alive = False
        await self._connection.send(self._head(status, lines + headers))

    async def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        if data and not self.head_only:
            await self._connection.send(b"%x\r\n%s\r\n" % (len(data), data) if self._in_chunks else data)

    async def send_file(self, fd: int, position: int, size: int) -> None:
        """Send a part of a file as a piece of the body, by sendfile(2)."""
        while size and not self.head_only:
            piece = min(size, _FILE_CHUNK)
            if self._in_chunks:
                await self._connection.send(b"%x\r\n" % piece)
            await self._connection.send_file(fd, position, piece)
            if self._in_chunks:
                await self._connection.send(b"\r\n")
            position += piece
            size -= piece

    async def finish(self) -> None:
        """End the answer. The server calls this for every request."""
        if self._in_chunks:
            self._in_chunks = False
            await self._connection.send(b"0\r\n\r\n")

    @asynccontextmanager
    async def hijack(self, content_type: str, upgrade: bool) -> AsyncIterator[HijackedStream]:
        """Take the connection over. The head is 101 if the client asks for an upgrade, else 200 without a length."""
        kind = content_type.encode()
        if upgrade:
            # Docker's spelling of the reason phrase.
            line = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: %s\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" % kind
        else:
            line = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n" % kind
        await self._send_last_head(line)
        yield self._connection.take_over()

    @asynccontextmanager
    async def upgrade(self, protocol: str) -> AsyncIterator[HijackedStream]:
        """Take the connection over for another protocol that the client has asked for by `Upgrade`."""
        lines = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: %s\r\n" % protocol.encode()
        await self._send_last_head(lines)
        yield self._connection.take_over()

    def take_over(self) -> HijackedStream:
        """Take over a connection that began with HTTP/2 (HTTP2_HEAD), to which HTTP/1 has no answer."""
        self.started = True
        return self._connection.take_over()

    @asynccontextmanager
    async def websocket(self, request: Request, *, binary: bool) -> AsyncIterator[WebSocketStream]:
        """Take the connection over as a WebSocket. InvalidParameter when the request is not a WebSocket handshake."""
        await self._send_last_head(_STATUS_LINES[101] + accept_header(request.headers))
        yield WebSocketStream(self._connection.take_over(), binary=binary)

    async def _send_last_head(self, lines: bytes) -> None:
        self.started = True
        await self._connection.let_continue()
        await self._connection.send(lines + self._connection.common_headers() + b"\r\n")
