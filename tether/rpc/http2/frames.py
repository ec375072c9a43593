"""Frames of HTTP/2 (RFC 9113 sections 4 and 6): constants, encoding, and cutting the peer's bytes into frames."""

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW = 65535
LARGEST_WINDOW = (1 << 31) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

S_HEADER_TABLE_SIZE, S_ENABLE_PUSH, S_MAX_STREAMS, S_INITIAL_WINDOW, S_MAX_FRAME, S_MAX_HEADER_LIST = range(1, 7)

_HEADER = struct.Struct(">HBBBI")
U32 = struct.Struct(">I")


class Code(enum.IntEnum):
    """Error codes, RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class ProtocolError(Exception):
    """The peer broke the protocol. `stream` 0: the whole connection is at an end."""

    def __init__(self, code: Code, text: str, stream: int = 0) -> None:
        super().__init__(text)
        self.code = code
        self.stream = stream


def frame_header(size: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload of `size` bytes."""
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream)


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


class FrameReader:
    """Cuts a client's bytes into frames, after its preface."""

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame
        self._buffer = bytearray()
        self._preface = True

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        self._buffer += data

    def clear(self) -> None:
        self._buffer.clear()

    def frames_untrusted(self) -> Iterator[Frame]:
        """Yield each whole frame once. Raises ProtocolError for a wrong preface or a frame that is too large."""
        buffer = self._buffer
        position = 0
        try:
            if self._preface:
                if not PREFACE.startswith(bytes(buffer[: len(PREFACE)])):
                    raise ProtocolError(Code.PROTOCOL_ERROR, "no HTTP/2 client preface")
                if len(buffer) < len(PREFACE):
                    return
                self._preface = False
                position = len(PREFACE)
            while len(buffer) - position >= _HEADER.size:
                high, low, kind, flags, stream = _HEADER.unpack_from(buffer, position)
                size = high << 8 | low
                if size > self._max_frame:
                    raise ProtocolError(Code.FRAME_SIZE_ERROR, "frame larger than SETTINGS_MAX_FRAME_SIZE")
                start = position + _HEADER.size
                if len(buffer) - start < size:
                    return
                position = start + size
                yield Frame(kind, flags, stream & LARGEST_WINDOW, bytes(memoryview(buffer)[start:position]))
        finally:
            del buffer[:position]


def unpad(flags: int, payload: bytes) -> bytes:
    """Return the payload of a DATA or HEADERS frame without its padding."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(Code.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def check_priority(stream: int, payload: bytes) -> None:
    """A PRIORITY frame has no effect here, but has to be well-formed."""
    if not stream:
        raise ProtocolError(Code.PROTOCOL_ERROR, "PRIORITY on stream 0")
    if len(payload) != 5:
        raise ProtocolError(Code.FRAME_SIZE_ERROR, "PRIORITY of a wrong size", stream)
    if U32.unpack_from(payload)[0] & LARGEST_WINDOW == stream:
        raise ProtocolError(Code.PROTOCOL_ERROR, "a stream depends on itself", stream)
