"""Header blocks: put together from HEADERS and CONTINUATION, decoded by `hpack`, checked (RFC 9113 section 8)."""

from hpack import Decoder, HPACKError, OversizedHeaderListError

from tether.rpc.http2.frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    LARGEST_WINDOW,
    U32,
    WITH_PRIORITY,
    Code,
    Frame,
    ProtocolError,
    unpad,
)

Headers = list[tuple[bytes, bytes]]

_FORBIDDEN = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))


# As many of the smallest frames as an endpoint could have a reason for. Empty ones cost no bytes of the block.
_MOST_CONTINUATIONS = 64


class HeaderReader:
    """Puts the peer's header blocks together and decodes them."""

    def __init__(self, max_list: int) -> None:
        """`max_list` bounds the bytes of an encoded block and of a decoded list."""
        self._max_list = max_list
        self._decoder = Decoder(max_header_list_size=max_list)
        # Stream, flags of its HEADERS frame, and what has come of a block that is not complete.
        self._open: tuple[int, int, bytearray] | None = None
        self._continuations = 0

    def check_order(self, frame: Frame) -> None:
        """Nothing may come between the frames of one block."""
        if self._open is not None and (frame.kind != CONTINUATION or frame.stream != self._open[0]):
            raise ProtocolError(Code.PROTOCOL_ERROR, "a header block was interrupted")

    def start_untrusted(self, frame: Frame) -> tuple[Headers, bool] | None:
        """Take a HEADERS frame; (headers, whether the stream ends) when the block is complete with it."""
        block = unpad(frame.flags, frame.payload)
        if frame.flags & WITH_PRIORITY:
            if len(block) < 5:
                raise ProtocolError(Code.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            if U32.unpack_from(block)[0] & LARGEST_WINDOW == frame.stream:
                raise ProtocolError(Code.PROTOCOL_ERROR, "a stream depends on itself")
            block = block[5:]
        if frame.flags & END_HEADERS:
            return self._decode(block), bool(frame.flags & END_STREAM)
        self._open = (frame.stream, frame.flags, bytearray(block))
        self._continuations = 0
        return None

    def continue_untrusted(self, frame: Frame) -> tuple[Headers, bool] | None:
        """Take a CONTINUATION frame; returns as `start_untrusted` does."""
        if self._open is None:
            raise ProtocolError(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        _, first_flags, block = self._open
        block += frame.payload
        self._continuations += 1
        if len(block) > self._max_list or self._continuations > _MOST_CONTINUATIONS:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "header block too large")
        if not frame.flags & END_HEADERS:
            return None
        self._open = None
        return self._decode(bytes(block)), bool(first_flags & END_STREAM)

    def _decode(self, block: bytes) -> Headers:
        try:
            return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError as error:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "header list too large") from error
        except HPACKError as error:
            raise ProtocolError(Code.COMPRESSION_ERROR, "header block cannot be decoded") from error


def check_request(headers: Headers, stream: int) -> None:
    """RFC 9113 sections 8.2 and 8.3: a malformed request is a stream error."""

    def malformed(text: str) -> ProtocolError:
        return ProtocolError(Code.PROTOCOL_ERROR, text, stream)

    pseudo: dict[bytes, bytes] = {}
    regular = False
    for name, value in headers:
        if name.startswith(b":"):
            if regular or name not in _PSEUDO or name in pseudo:
                raise malformed("pseudo-header out of place")
            pseudo[name] = value
            continue
        regular = True
        if name != name.lower() or not name:
            raise malformed("header names are lower case")
        if name in _FORBIDDEN or (name == b"te" and value != b"trailers"):
            raise malformed("connection-specific header")
    if not pseudo.get(b":method") or not pseudo.get(b":scheme") or not pseudo.get(b":path"):
        raise malformed("a pseudo-header is missing")


def content_length(headers: Headers, stream: int, ended: bool) -> int | None:
    """The length that a request announces, None when it announces none. `ended`: the request has no body."""
    length = None
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit() or (ended and int(value)):
                raise ProtocolError(Code.PROTOCOL_ERROR, "content-length does not match the body", stream)
            length = int(value)
    return length
