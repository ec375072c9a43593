"""A connection that was taken over: plain bytes both ways, each way with an end of its own."""

import socket

import trio


async def send_all(sock: trio.socket.SocketType, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[await sock.send(view) :]


class HijackedStream:
    """Reads begin with what the client had sent behind its request."""

    def __init__(self, sock: trio.socket.SocketType, early: bytes) -> None:
        self._socket = sock
        self._early = early

    async def receive(self, size: int = 1 << 18) -> bytes:
        """Return some bytes, b"" when the client has ended its side (or is gone)."""
        if self._early:
            data, self._early = self._early[:size], self._early[size:]
            return data
        try:
            return await self._socket.recv(size)
        except OSError:
            return b""

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of it. BrokenPipeError or ConnectionResetError when the client is gone."""
        await send_all(self._socket, data)

    async def end(self) -> None:
        """No more will be sent."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
