"""A hijacked connection: plain bytes in both directions. Each direction ends on its own."""

import socket

import trio


async def send_all(sock: trio.socket.SocketType, data: bytes | memoryview) -> None:
    """Send all of the data. OSError when the peer is gone."""
    view = memoryview(data)
    while view:
        view = view[await sock.send(view) :]


class HijackedStream:
    """Reads begin with `early`, the bytes that the client has sent behind its request."""

    def __init__(self, sock: trio.socket.SocketType, early: bytes) -> None:
        self._socket = sock
        self._early = early

    async def receive(self, size: int = 1 << 18) -> bytes:
        """Some bytes, b"" when the client has closed its side, or is gone."""
        if self._early:
            data, self._early = self._early[:size], self._early[size:]
            return data
        try:
            return await self._socket.recv(size)
        except OSError:
            return b""

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of the data. BrokenPipeError or ConnectionResetError when the client is gone."""
        await send_all(self._socket, data)

    async def end(self) -> None:
        """Close our side: no more data follows."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
