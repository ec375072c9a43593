"""The table of a connection's streams (RFC 9113 section 5.1): which are open, which were reset here, which are idle."""

from collections import deque
from dataclasses import dataclass, field

from tether.rpc.http2.frames import Code, ProtocolError
from tether.rpc.http2.headers import Headers


@dataclass(slots=True)
class Stream:
    """`expected` is the announced content-length. Bytes in `unacknowledged` were taken, and open the window later."""

    send_window: int
    receive_window: int
    remote_ended: bool = False
    expected: int | None = None
    received: int = 0
    unacknowledged: int = 0
    outgoing: deque[memoryview] = field(default_factory=deque)
    outgoing_bytes: int = 0
    trailers: Headers | None = None
    ending: bool = False
    want_room: bool = False

    def receive(self, number: int, data: bytes, size: int, ended: bool) -> None:
        """Account for a DATA frame of `size` bytes, padding included. Raises ProtocolError."""
        if self.remote_ended:
            raise ProtocolError(Code.STREAM_CLOSED, "DATA after END_STREAM", number)
        self.receive_window -= size
        if self.receive_window < 0:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "stream window exceeded", number)
        self.received += len(data)
        if self.expected is not None and (self.received > self.expected or (ended and self.received != self.expected)):
            raise ProtocolError(Code.PROTOCOL_ERROR, "content-length does not match the body", number)
        self.remote_ended = ended

    def receive_trailers(self, number: int, headers: Headers, ended: bool) -> None:
        """Account for the header block after the data. Raises ProtocolError."""
        if self.remote_ended:
            raise ProtocolError(Code.STREAM_CLOSED, "HEADERS after END_STREAM", number)
        if not ended or any(name.startswith(b":") for name, _ in headers):
            raise ProtocolError(Code.PROTOCOL_ERROR, "malformed trailers", number)
        if self.expected is not None and self.received != self.expected:
            raise ProtocolError(Code.PROTOCOL_ERROR, "content-length does not match the body", number)
        self.remote_ended = True


class StreamTable:
    """Open streams by number. Clients use odd numbers, each higher than the last."""

    def __init__(self) -> None:
        self.open: dict[int, Stream] = {}
        self.highest = 0
        # Streams that this end reset: frames that the peer had sent before it knew are dropped in silence.
        self._reset_here: deque[int] = deque(maxlen=512)

    def close(self, number: int) -> Stream | None:
        return self.open.pop(number, None)

    def mark_reset(self, number: int) -> None:
        self._reset_here.append(number)

    def was_reset_here(self, number: int) -> bool:
        return number in self._reset_here

    def is_idle(self, number: int) -> bool:
        """Whether the client has never used the stream."""
        return number > self.highest or not number & 1

    def check_not_idle(self, number: int, text: str) -> None:
        if self.is_idle(number):
            raise ProtocolError(Code.PROTOCOL_ERROR, text)

    def check_reset_here(self, number: int) -> None:
        """A frame came on a stream that is not open: that is allowed only when this end has just reset the stream."""
        self.check_not_idle(number, "frame on an idle stream")
        if number not in self._reset_here:
            raise ProtocolError(Code.STREAM_CLOSED, "frame on a closed stream", number)
