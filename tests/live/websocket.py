"""A small WebSocket client over a unix socket (RFC 6455), which can also misbehave."""

import base64
import os
import socket
import struct

from tests.live.daemon import Daemon


class WebSocket:
    """Use as a context. `kinds` are the opcodes of the received messages, `pongs` the payloads of the pongs."""

    def __init__(self, daemon: Daemon, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(str(daemon.socket))
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET {path} HTTP/1.1\r\nHost: d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        self._socket.sendall(head.encode())
        self._buffer = b""
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        answer, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101"), answer
        self.kinds: set[int] = set()
        self.pongs: list[bytes] = []

    def __enter__(self) -> "WebSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _fill(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise EOFError
        self._buffer += data

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _frame(self) -> tuple[int, bytes]:
        first, second = self._exactly(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self._exactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._exactly(8))
        return first & 0xF, self._exactly(size)

    def until(self, text: bytes) -> bytes:
        """The received bytes up to and including the text."""
        seen = b""
        while text not in seen:
            kind, data = self._frame()
            if kind == 8:
                raise EOFError(seen)
            self.kinds.add(kind)
            seen += data
        return seen

    def ping(self, data: bytes) -> None:
        self._send(9, data)
        while True:
            kind, answer = self._frame()
            if kind == 10:
                self.pongs.append(answer)
                return

    def wait_closed(self) -> int:
        """The close code of the other end; 0 if it closes without a close frame."""
        try:
            while True:
                kind, data = self._frame()
                if kind == 8:
                    return int.from_bytes(data[:2], "big")
        except (EOFError, ConnectionResetError):
            return 0

    def send(self, message: bytes | str) -> None:
        data = message.encode() if isinstance(message, str) else message
        self._send(1 if isinstance(message, str) else 2, data)

    def _send(self, kind: int, data: bytes) -> None:
        mask = os.urandom(4)
        size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        masked = bytes(value ^ mask[index % 4] for index, value in enumerate(data))
        self.raw(bytes([0x80 | kind]) + size + mask + masked)

    def raw(self, data: bytes) -> None:
        self._socket.sendall(data)
