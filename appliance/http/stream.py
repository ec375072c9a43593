"""A hijacked connection: plain bytes in both directions. Each direction ends on its own."""

import socket
from collections.abc import Callable
from contextlib import suppress

import trio

from appliance.errors import ProtocolError
from appliance.http.body import EMPTY, Body


async def send_all(sock: trio.socket.SocketType, data: bytes | memoryview) -> None:
    """Send all of the data. OSError when the peer is gone."""
    view = memoryview(data)
    while view:
        view = view[await sock.send(view) :]


class HijackedStream:
    """`received`: the bytes that the client has sent behind the head of its request.

    They begin with what the handler has not read of the request's `body`. The stream begins behind the body: dockerode sends
    its options as the body of an attach request, and they must not reach the process.
    """

    def __init__(
        self,
        sock: trio.socket.SocketType,
        received: bytes = b"",
        body: Body = EMPTY,
        on_detach: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_detach` is called before the descriptor leaves the server."""
        self._socket = sock
        self._received = bytearray(received)
        self._body = body
        self._on_detach = on_detach

    async def receive(self, size: int = 1 << 18) -> bytes:
        """Some bytes, b"" when the client has closed its side, is gone, or breaks the framing of its body."""
        try:
            if not await self._skip_body():
                return b""
            if self._received:
                early = bytes(self._received[:size])
                del self._received[:size]
                return early
            return await self._socket.recv(size)
        except (OSError, ProtocolError):
            return b""

    async def _skip_body(self) -> bool:
        """Receive what is left of the request's body. False when the client leaves before its end; OSError, ProtocolError."""
        while not self._body.finished:
            while self._body.take_untrusted(self._received):
                # A client that sends many small chunks at once shares the loop with the others.
                await trio.lowlevel.checkpoint()
            if not self._body.finished:
                data = await self._socket.recv(1 << 18)
                if not data:
                    return False
                self._received += data
        return True

    async def detach(self) -> tuple[socket.socket, bytes]:
        """Give the connection away: a non-blocking socket, and the bytes that the client has sent already.

        The server neither reads nor closes the connection from here on. After a broken request body the socket is at its end.
        """
        try:
            whole = await self._skip_body()
        except (OSError, ProtocolError):
            whole = False
        if not whole:
            self._received.clear()
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._on_detach()
        return socket.socket(fileno=self._socket.detach()), bytes(self._received)

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of the data. BrokenPipeError or ConnectionResetError when the client is gone."""
        await send_all(self._socket, data)

    async def end(self) -> None:
        """Close our side: no more data follows."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
