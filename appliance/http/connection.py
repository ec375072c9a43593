"""One connection: bytes in and out of a socket, heads and bodies of requests one after the other.

There is no task and no cancel scope per request: an idle connection costs a few KiB.
"""

import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

import trio

from appliance.errors import InvalidParameter, ProtocolError
from appliance.http.body import EMPTY, Body
from appliance.http.client_limits import ClientLimits
from appliance.http.head import END, HTTP2_HEAD, MAX_HEAD, PRIOR_KNOWLEDGE, Head, parse_head_untrusted
from appliance.http.readiness import Readiness
from appliance.http.stream import HijackedStream

# Time for a client that still sends to read its answer.
LINGER_SECONDS = 0.5
# Bytes of a body that the handler did not read, and that the connection skips for the sake of the next request.
MAX_SKIPPED = 1 << 20
_RECEIVE = 64 << 10


class Disconnected(Exception):
    """The client has closed the connection, or the connection cannot be used any more."""


class Connection:
    """`keep_alive`: a further request may follow. `common_headers` returns header lines for an answer."""

    def __init__(
        self,
        sock: trio.socket.SocketType,
        common_headers: Callable[[], bytes],
        readiness: Readiness,
        limits: ClientLimits,
    ) -> None:
        self.common_headers = common_headers
        self.keep_alive = True
        self._socket = sock
        self._fd = sock.fileno()
        self._readiness = readiness
        self._limits = limits
        self._received = bytearray()
        self._body: Body = EMPTY
        # The client sends its body only after "100 Continue".
        self._waits_for_continue = False
        self._taken_over = False
        self._malformed = False
        self._first = True
        # A send was cancelled in the middle: what follows would not be read as what it is.
        self._cut_off = False

    # -- sockets --------------------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Send all of it. Disconnected when the client is gone, or after a send that was cancelled in the middle."""
        if self._cut_off:
            raise Disconnected
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
                view = view[await self._socket.send(view) :]
        except OSError as error:
            raise Disconnected from error
        except trio.Cancelled:
            self._cut_off = True
            raise

    async def send_file(self, fd: int, position: int, size: int) -> None:
        """Send a part of a file. Disconnected when the client is gone."""
        while size:
            try:
                sent = os.sendfile(self._fd, fd, position, size)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)
                continue
            except OSError as error:
                raise Disconnected from error
            if not sent:
                raise ProtocolError("a file became shorter while it was sent")
            position += sent
            size -= sent

    async def _receive(self) -> bytes:
        """Some bytes, b"" when the client has closed its side or is gone."""
        while True:
            # Wait first: between two requests of a client there is nearly always nothing to read yet.
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

    def take_over(self) -> HijackedStream:
        """The connection as a stream that begins behind the request and its body."""
        self.keep_alive = False
        self._taken_over = True
        return HijackedStream(self._socket, bytes(self._received), self._body, self._stop_readiness)

    def _stop_readiness(self) -> None:
        self._readiness.remove(self._fd)

    async def wait_closed(self) -> None:
        """Return when the client has closed its side. Bytes that arrive meanwhile belong to its next request."""
        while len(self._received) < MAX_HEAD:
            data = await self._receive()
            if not data:
                return
            self._received += data
        await trio.sleep_forever()

    async def linger(self) -> None:
        """Let a client that still sends read its answer: closing now would reset the connection (RFC 9112 9.6)."""
        unread = not self._body.finished or self._malformed
        if self._taken_over or self._waits_for_continue or not unread:
            return
        with suppress(OSError), trio.move_on_after(LINGER_SECONDS):
            self._socket.shutdown(socket.SHUT_WR)
            while await self._receive():
                pass

    # -- heads ----------------------------------------------------------------------------------------------------

    async def next_head(self) -> Head | None:
        """The next head, None at the end of the connection. ProtocolError for bytes that are not HTTP/1.x.

        HTTP2_HEAD for a connection that begins as one of HTTP/2. Its bytes all belong to the stream of `take_over`.
        """
        if not self._body.finished:
            await self._skip_body()
        if self._received:
            # A client that pipelines many requests shares the loop with the others.
            await trio.lowlevel.checkpoint()
        elif not await self._receive_first():
            return None
        if END not in self._received and not await self._receive_head():
            return None
        size = self._received.index(END) + len(END)
        if size > MAX_HEAD:
            raise ProtocolError("request head too large")
        raw = bytes(self._received[:size])
        first, self._first = self._first, False
        if first and raw == PRIOR_KNOWLEDGE:
            self.keep_alive = False
            return HTTP2_HEAD
        head = parse_head_untrusted(raw)
        del self._received[:size]
        self.keep_alive = head.keep_alive
        self._body = head.body()
        self._waits_for_continue = head.expects_continue and not self._body.finished
        return head

    async def _receive_head(self) -> bool:
        """Receive up to the end of a head. False when the client is gone, or its head exceeds a limit of unfinished heads."""
        with self._limits.unfinished_head() as grow:
            while END not in self._received:
                if len(self._received) >= MAX_HEAD:
                    raise ProtocolError("request head too large")
                grow(len(self._received))
                if not await self._receive_more():
                    return False
            return True
        return False

    async def _receive_first(self) -> bool:
        self._limits.idle(self._socket)
        try:
            return await self._receive_more()
        finally:
            self._limits.busy(self._socket)

    async def _receive_more(self) -> bool:
        data = await self._receive()
        self._received += data
        return bool(data)

    def mark_malformed(self) -> None:
        """Stop reading requests: what the client sends from here on has no meaning."""
        self.keep_alive = False
        self._malformed = True
        self._body = EMPTY

    # -- bodies ---------------------------------------------------------------------------------------------------

    async def stream_body(self) -> AsyncGenerator[bytes, None]:
        """The rest of the body in pieces. Disconnected when the client leaves before its end."""
        while piece := await self._next_piece():
            yield piece

    async def _next_piece(self) -> bytes:
        """The next piece of the body, b"" at its end."""
        while not self._body.finished:
            try:
                piece = self._body.take_untrusted(self._received)
            except ProtocolError:
                self.mark_malformed()
                raise
            if piece:
                if self._received:
                    # A client that sends many small chunks at once shares the loop with the others.
                    await trio.lowlevel.checkpoint()
                return piece
            if not self._body.finished:
                await self._receive_body()
        return b""

    async def _receive_body(self) -> None:
        await self.let_continue()
        if not await self._receive_more():
            raise Disconnected

    async def let_continue(self) -> None:
        """Send "100 Continue" if the client waits for it. It goes before a 101 (RFC 9110 7.8)."""
        if self._waits_for_continue:
            self._waits_for_continue = False
            await self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def read_body(self, limit: int) -> bytes:
        """The whole body. InvalidParameter when it has more than `limit` bytes.

        Disconnected when the client leaves before the body's end, or the body exceeds a limit of unfinished bodies.
        """
        if self._body.finished:
            return b""
        # Not a list of the pieces: an object for each byte of a body in small chunks would cost 40 times the body.
        body = bytearray()
        with self._limits.unfinished_body() as grow:
            while piece := await self._next_piece():
                body += piece
                grow(len(body))
                if len(body) > limit:
                    self.keep_alive = False
                    raise InvalidParameter(f"request body larger than {limit} bytes")
            return bytes(body)
        raise Disconnected

    async def _skip_body(self) -> None:
        """Skip what the handler left of the last body. Disconnected when that is too much, or takes longer than a head may."""
        if self._waits_for_continue:
            raise Disconnected
        left = MAX_SKIPPED
        with self._limits.unfinished_head():
            while piece := await self._next_piece():
                left -= len(piece)
                if left < 0:
                    raise Disconnected
            return
        raise Disconnected
