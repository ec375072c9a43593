"""The body of a request (RFC 9112 6 and 7.1), sans-io: a reader takes content out of the bytes that were received."""

import re
from typing import Protocol

from appliance.errors import ProtocolError

MAX_LINE = 4096
MAX_TRAILERS = 64 << 10
# As Go's net/http/internal/chunked.go: chunks of one byte are fine, chunk extensions without end are not.
MAX_OVERHEAD = 16 << 10
_ALLOWED_OVERHEAD = 16
# Chunks that one call takes: so many cost about a millisecond.
_MOST_CHUNKS = 256

_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}")


class Body(Protocol):
    """Reads one body."""

    @property
    def finished(self) -> bool:
        """Whether all of the body was taken."""

    def take_untrusted(self, received: bytearray) -> bytes:
        """Remove the next piece of content, and the framing around it, from the front of `received`.

        An empty piece means that the body is finished, or that more bytes are needed. ProtocolError for broken framing.
        """


class FixedBody:
    """A body of Content-Length bytes."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def finished(self) -> bool:
        """See Body."""
        return not self._left

    def take_untrusted(self, received: bytearray) -> bytes:
        """See Body."""
        piece = _take(received, self._left)
        self._left -= len(piece)
        return piece


EMPTY = FixedBody(0)


class ChunkedBody:
    """A body with Transfer-Encoding: chunked. Chunk extensions and trailers are read and ignored."""

    def __init__(self) -> None:
        self.finished = False
        # Bytes of the current chunk that have not come yet.
        self._left = 0
        # What the next line is: the size of a chunk, the empty line behind a chunk, or a trailer.
        self._next_line = self._size_line
        self._trailers = 0
        self._overhead = 0

    def take_untrusted(self, received: bytearray) -> bytes:
        """See Body. A piece has the content of many chunks if they are small."""
        content = bytearray()
        chunks = 0
        while not self.finished:
            if self._left:
                piece = _take(received, self._left)
                self._left -= len(piece)
                content += piece
                chunks += 1
                if chunks == _MOST_CHUNKS or not received:
                    break
                continue
            end = received.find(b"\r\n", 0, MAX_LINE + 2)
            if end < 0:
                if len(received) > MAX_LINE:
                    raise ProtocolError("malformed chunk")
                break
            line = _take(received, end + 2)[:-2]
            # A parser in front of us that takes a bare LF for the end of a line would see another body here.
            if b"\n" in line or b"\r" in line:
                raise ProtocolError("malformed chunk")
            self._next_line(line)
        return bytes(content)

    def _size_line(self, line: bytes) -> None:
        size = line.partition(b";")[0].rstrip(b" \t")
        if not _SIZE.fullmatch(size):
            raise ProtocolError("malformed chunk")
        self._left = int(size, 16)
        self._overhead = max(0, self._overhead + len(line) + 2 - _ALLOWED_OVERHEAD - 2 * self._left)
        if self._overhead > MAX_OVERHEAD:
            raise ProtocolError("chunked encoding contains too much non-data")
        self._next_line = self._chunk_end if self._left else self._trailer

    def _chunk_end(self, line: bytes) -> None:
        if line:
            raise ProtocolError("malformed chunk")
        self._next_line = self._size_line

    def _trailer(self, line: bytes) -> None:
        self.finished = not line
        self._trailers += len(line)
        if self._trailers > MAX_TRAILERS:
            raise ProtocolError("malformed chunk")


def _take(received: bytearray, size: int) -> bytes:
    # Deleting at the front of a bytearray moves no bytes: many small chunks cost no more than one large one.
    piece = bytes(received[:size])
    del received[:size]
    return piece
