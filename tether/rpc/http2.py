"""The server end of HTTP/2 (RFC 9113), sans-io: bytes in, events and bytes out.

Only what gRPC needs: no push, priorities are read and ignored. Receive windows of streams open as their user takes data; the
connection's window opens at once, so that a stream nobody reads never stops the others. `hpack` does header compression.
"""

import enum
import struct
from collections import deque
from dataclasses import dataclass, field

from hpack import Decoder, Encoder, HPACKError, OversizedHeaderListError

Headers = list[tuple[bytes, bytes]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW = 65535
LARGEST_WINDOW = (1 << 31) - 1
_FRAME = struct.Struct(">HBBBI")
_U32 = struct.Struct(">I")


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


DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

S_HEADER_TABLE_SIZE, S_ENABLE_PUSH, S_MAX_STREAMS, S_INITIAL_WINDOW, S_MAX_FRAME, S_MAX_HEADER_LIST = range(1, 7)


class ProtocolError(Exception):
    """The peer broke the protocol. `stream` 0: the whole connection is at an end."""

    def __init__(self, code: Code, text: str, stream: int = 0) -> None:
        super().__init__(text)
        self.code = code
        self.stream = stream


@dataclass(frozen=True, slots=True)
class RequestReceived:
    stream: int
    headers: Headers
    ended: bool


@dataclass(frozen=True, slots=True)
class DataReceived:
    """`size` (padding counted) is what `acknowledge` wants back when the data was taken."""

    stream: int
    data: bytes
    size: int
    ended: bool


@dataclass(frozen=True, slots=True)
class StreamReset:
    stream: int
    code: int


@dataclass(frozen=True, slots=True)
class Writable:
    """The stream's outgoing data has left: there is room again."""

    stream: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over (after what `data_to_send` still holds)."""

    code: Code
    text: str


Event = RequestReceived | DataReceived | StreamReset | Writable | Closed


@dataclass(slots=True)
class _Stream:
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


@dataclass(frozen=True, slots=True)
class Limits:
    max_streams: int = 256
    stream_window: int = 256 << 10
    connection_window: int = 16 << 20
    max_frame: int = 64 << 10
    max_header_list: int = 16 << 10
    # Answers (settings, ping) and resets that may wait for the line: a flood of either ends the connection.
    max_pending_control: int = 64 << 10


class ServerConnection:
    """One client. Call `receive_data`, then take all of `next_event`, then write what `data_to_send` returns."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._decoder = Decoder(max_header_list_size=self.limits.max_header_list)
        self._encoder = Encoder()
        self._buffer = bytearray()
        self._preface = True
        self._first_frame = True
        self._events: deque[Event] = deque()
        self._control = bytearray()
        self._streams: dict[int, _Stream] = {}
        self._ready: dict[int, None] = {}
        # Streams that this end reset: what the peer had under way for them is dropped in silence.
        self._reset_here: deque[int] = deque(maxlen=512)
        self._highest = 0
        self._peer_frame = 16384
        self._peer_initial_window = DEFAULT_WINDOW
        self._send_window = DEFAULT_WINDOW
        self._receive_window = self.limits.connection_window
        self._received_unannounced = 0
        self._block: tuple[int, int, bytearray] | None = None
        self._resets = 0
        self.closed = False
        self._going_away = False
        settings = (
            (S_MAX_STREAMS, self.limits.max_streams),
            (S_INITIAL_WINDOW, self.limits.stream_window),
            (S_MAX_FRAME, self.limits.max_frame),
            (S_MAX_HEADER_LIST, self.limits.max_header_list),
        )
        self._put(SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in settings))
        self._put(WINDOW_UPDATE, 0, 0, _U32.pack(self.limits.connection_window - DEFAULT_WINDOW))

    # -- out ------------------------------------------------------------------------------------------------------

    def _put(self, kind: int, flags: int, stream: int, payload: bytes | bytearray = b"") -> None:
        size = len(payload)
        self._control += _FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload

    def send_headers(self, stream: int, headers: Headers, *, end: bool = False) -> None:
        """Response headers, or trailers with `end` when nothing is queued. A stream that is gone is ignored."""
        state = self._streams.get(stream)
        if state is None or state.ending:
            return
        if end and state.outgoing:
            state.trailers = headers
            state.ending = True
            return
        self._put_headers(stream, headers, end)
        if end:
            state.ending = True
            self._finish(stream, state)

    def _put_headers(self, stream: int, headers: Headers, end: bool) -> None:
        block = self._encoder.encode(headers)
        flags = END_STREAM if end else 0
        kind = HEADERS
        for start in range(0, len(block), self._peer_frame):
            part = block[start : start + self._peer_frame]
            last = END_HEADERS if start + len(part) >= len(block) else 0
            self._put(kind, flags | last, stream, part)
            kind, flags = CONTINUATION, 0

    def send_data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Queue data; `outgoing_bytes` says how much waits, `Writable` comes when it has gone."""
        state = self._streams.get(stream)
        if state is None or state.ending:
            return
        if data:
            state.outgoing.append(memoryview(data))
            state.outgoing_bytes += len(data)
        state.ending = end
        self._ready[stream] = None

    def outgoing_bytes(self, stream: int) -> int:
        """Bytes queued for the stream; 0 also when it is gone."""
        state = self._streams.get(stream)
        if state is None:
            return 0
        state.want_room = True
        return state.outgoing_bytes

    def is_open(self, stream: int) -> bool:
        return stream in self._streams

    def reset(self, stream: int, code: Code) -> None:
        if self._streams.pop(stream, None) is not None:
            self._ready.pop(stream, None)
            self._reset_here.append(stream)
            self._put(RST_STREAM, 0, stream, _U32.pack(code))

    def go_away(self) -> None:
        """Take no new streams; those that are open go on (graceful, RFC 9113 section 6.8)."""
        self._going_away = True
        self._put(GOAWAY, 0, 0, _U32.pack(self._highest) + _U32.pack(Code.NO_ERROR))

    def acknowledge(self, stream: int, size: int) -> None:
        """The user took `size` bytes of the stream: open its window by as much."""
        state = self._streams.get(stream)
        if state is None or state.remote_ended:
            return
        state.unacknowledged += size
        if state.unacknowledged >= self.limits.stream_window // 2:
            self._put(WINDOW_UPDATE, 0, stream, _U32.pack(state.unacknowledged))
            state.receive_window += state.unacknowledged
            state.unacknowledged = 0

    def pending(self) -> bool:
        """Whether `data_to_send` would return bytes now."""
        return bool(self._control) or (bool(self._ready) and self._send_window > 0 and not self.closed)

    def data_to_send(self, most: int = 256 << 10) -> bytes:
        """Return control frames and as much stream data as windows and `most` allow, streams taking turns."""
        parts: list[bytes | bytearray | memoryview] = [self._control] if self._control else []
        self._control = bytearray()
        size = 0
        while self._ready and size < most and not self.closed:
            progress = False
            for stream in list(self._ready):
                state = self._streams[stream]
                sent = self._take(stream, state, parts)
                if sent < 0:
                    self._ready.pop(stream, None)
                else:
                    progress = True
                    size += sent
            if not progress:
                break
        return b"".join(parts)

    def _take(self, stream: int, state: _Stream, parts: list[bytes | bytearray | memoryview]) -> int:
        """One frame of a stream; returns its size, -1 when the stream can send nothing (more) for now."""
        if not state.outgoing:
            if not state.ending:
                return -1
            if state.trailers is not None:
                self._put_headers(stream, state.trailers, True)
            else:
                self._put(DATA, END_STREAM, stream)
            parts.append(self._control)
            self._control = bytearray()
            self._finish(stream, state)
            return -1
        room = min(self._peer_frame, state.send_window, self._send_window)
        if room <= 0:
            return -1
        chunk = state.outgoing[0]
        if len(chunk) <= room:
            state.outgoing.popleft()
        else:
            state.outgoing[0] = chunk[room:]
            chunk = chunk[:room]
        size = len(chunk)
        state.outgoing_bytes -= size
        state.send_window -= size
        self._send_window -= size
        end = state.ending and state.trailers is None and not state.outgoing
        parts.append(_FRAME.pack(size >> 8, size & 0xFF, DATA, END_STREAM if end else 0, stream))
        parts.append(chunk)
        if end:
            self._finish(stream, state)
            return -1
        if not state.outgoing and state.want_room:
            state.want_room = False
            self._events.append(Writable(stream))
        return size

    def _finish(self, stream: int, state: _Stream) -> None:
        """This end is done with the stream; if the client is not, it is told not to bother (RFC 9113 section 8.1)."""
        self._ready.pop(stream, None)
        if self._streams.pop(stream, None) is not None and not state.remote_ended:
            self._reset_here.append(stream)
            self._put(RST_STREAM, 0, stream, _U32.pack(Code.NO_ERROR))

    # -- in -------------------------------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes of the client; errors become `Closed` or `StreamReset` events and frames to send, never exceptions."""
        if self.closed:
            return
        self._buffer += data
        try:
            self._parse_untrusted()
        except ProtocolError as error:
            self._fail(error.code, str(error))

    def _fail(self, code: Code, text: str) -> None:
        self.closed = True
        self._buffer.clear()
        self._put(GOAWAY, 0, 0, _U32.pack(self._highest) + _U32.pack(code) + text.encode()[:128])
        self._events.append(Closed(code, text))

    def _parse_untrusted(self) -> None:
        buffer = self._buffer
        position = 0
        if self._preface:
            if not PREFACE.startswith(bytes(buffer[: len(PREFACE)])):
                raise ProtocolError(Code.PROTOCOL_ERROR, "no HTTP/2 client preface")
            if len(buffer) < len(PREFACE):
                return
            self._preface = False
            position = len(PREFACE)
        try:
            while len(buffer) - position >= 9:
                high, low, kind, flags, stream = _FRAME.unpack_from(buffer, position)
                size = high << 8 | low
                if size > self.limits.max_frame:
                    raise ProtocolError(Code.FRAME_SIZE_ERROR, "frame larger than SETTINGS_MAX_FRAME_SIZE")
                if len(buffer) - position - 9 < size:
                    break
                start = position + 9
                payload = bytes(memoryview(buffer)[start : start + size])
                position = start + size
                try:
                    self._on_frame(kind, flags, stream & LARGEST_WINDOW, payload)
                except ProtocolError as error:
                    if not error.stream:
                        raise
                    self._events.append(StreamReset(error.stream, error.code))
                    if error.stream in self._streams:
                        self.reset(error.stream, error.code)
                    else:
                        self._put(RST_STREAM, 0, error.stream, _U32.pack(error.code))
                if len(self._control) > self.limits.max_pending_control:
                    raise ProtocolError(Code.ENHANCE_YOUR_CALM, "too many control frames")
        finally:
            del buffer[:position]

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._first_frame:
            if kind != SETTINGS or flags & ACK:
                raise ProtocolError(Code.PROTOCOL_ERROR, "the preface lacks its SETTINGS")
            self._first_frame = False
        if self._block is not None and (kind != CONTINUATION or stream != self._block[0]):
            raise ProtocolError(Code.PROTOCOL_ERROR, "a header block was interrupted")
        match kind:
            case 0:
                self._on_data(flags, stream, payload)
            case 1:
                self._on_headers(flags, stream, payload)
            case 2:
                self._on_priority(stream, payload)
            case 3:
                self._on_reset(stream, payload)
            case 4:
                self._on_settings(flags, stream, payload)
            case 5:
                raise ProtocolError(Code.PROTOCOL_ERROR, "a client must not push")
            case 6:
                self._on_ping(flags, stream, payload)
            case 7:
                if stream:
                    raise ProtocolError(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
            case 8:
                self._on_window_update(stream, payload)
            case 9:
                self._on_continuation(flags, stream, payload)
            case _:
                pass  # unknown types are ignored, RFC 9113 section 5.5

    @staticmethod
    def _unpad(flags: int, payload: bytes) -> bytes:
        if not flags & PADDED:
            return payload
        if not payload or payload[0] >= len(payload):
            raise ProtocolError(Code.PROTOCOL_ERROR, "more padding than frame")
        return payload[1 : len(payload) - payload[0]]

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream:
            raise ProtocolError(Code.PROTOCOL_ERROR, "DATA on stream 0")
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "connection window exceeded")
        self._received_unannounced += size
        if self._received_unannounced >= self.limits.connection_window // 2:
            self._put(WINDOW_UPDATE, 0, 0, _U32.pack(self._received_unannounced))
            self._receive_window += self._received_unannounced
            self._received_unannounced = 0
        data = self._unpad(flags, payload)
        state = self._streams.get(stream)
        if state is None:
            self._not_open(stream)
            return
        if state.remote_ended:
            raise ProtocolError(Code.STREAM_CLOSED, "DATA after END_STREAM", stream)
        state.receive_window -= size
        if state.receive_window < 0:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "stream window exceeded", stream)
        state.received += len(data)
        ended = bool(flags & END_STREAM)
        if state.expected is not None and (
            state.received > state.expected or (ended and state.received != state.expected)
        ):
            raise ProtocolError(Code.PROTOCOL_ERROR, "content-length does not match the body", stream)
        state.remote_ended = ended
        self._events.append(DataReceived(stream, data, size, ended))

    def _not_open(self, stream: int) -> None:
        if stream > self._highest or not stream & 1:
            raise ProtocolError(Code.PROTOCOL_ERROR, "frame on an idle stream")
        if stream not in self._reset_here:
            raise ProtocolError(Code.STREAM_CLOSED, "frame on a closed stream", stream)

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream & 1:
            raise ProtocolError(Code.PROTOCOL_ERROR, "HEADERS on a stream that is not the client's")
        block = self._unpad(flags, payload)
        if flags & WITH_PRIORITY:
            if len(block) < 5:
                raise ProtocolError(Code.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            if _U32.unpack_from(block)[0] & LARGEST_WINDOW == stream:
                raise ProtocolError(Code.PROTOCOL_ERROR, "a stream depends on itself")
            block = block[5:]
        if stream <= self._highest and stream not in self._streams and stream not in self._reset_here:
            raise ProtocolError(Code.STREAM_CLOSED, "HEADERS on a closed stream")
        if flags & END_HEADERS:
            self._on_block(stream, flags, block)
        else:
            self._block = (stream, flags, bytearray(block))

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None:
            raise ProtocolError(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        _, first_flags, block = self._block
        block += payload
        if len(block) > self.limits.max_header_list:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "header block too large")
        if flags & END_HEADERS:
            self._block = None
            self._on_block(stream, first_flags, bytes(block))

    def _on_block(self, stream: int, flags: int, block: bytes) -> None:
        try:
            headers: Headers = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError as error:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "header list too large") from error
        except HPACKError as error:
            raise ProtocolError(Code.COMPRESSION_ERROR, "header block cannot be decoded") from error
        ended = bool(flags & END_STREAM)
        state = self._streams.get(stream)
        if state is not None:
            self._on_trailers(stream, state, headers, ended)
            return
        if stream <= self._highest:
            return  # late trailers of a stream that was reset here; decoded for the table's sake
        self._highest = stream
        _check_request(headers, stream)
        if len(self._streams) >= self.limits.max_streams or self._going_away:
            self._reset_here.append(stream)
            self._put(RST_STREAM, 0, stream, _U32.pack(Code.REFUSED_STREAM))
            return
        state = _Stream(self._peer_initial_window, self.limits.stream_window, remote_ended=ended)
        for name, value in headers:
            if name == b"content-length":
                if not value.isdigit() or (ended and int(value)):
                    raise ProtocolError(Code.PROTOCOL_ERROR, "content-length does not match the body", stream)
                state.expected = int(value)
        self._streams[stream] = state
        self._events.append(RequestReceived(stream, headers, ended))

    def _on_trailers(self, stream: int, state: _Stream, headers: Headers, ended: bool) -> None:
        if state.remote_ended:
            raise ProtocolError(Code.STREAM_CLOSED, "HEADERS after END_STREAM", stream)
        if not ended or any(name.startswith(b":") for name, _ in headers):
            raise ProtocolError(Code.PROTOCOL_ERROR, "malformed trailers", stream)
        if state.expected is not None and state.received != state.expected:
            raise ProtocolError(Code.PROTOCOL_ERROR, "content-length does not match the body", stream)
        state.remote_ended = True
        self._events.append(DataReceived(stream, b"", 0, True))

    def _on_priority(self, stream: int, payload: bytes) -> None:
        if not stream:
            raise ProtocolError(Code.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "PRIORITY of a wrong size", stream)
        if _U32.unpack_from(payload)[0] & LARGEST_WINDOW == stream:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a stream depends on itself", stream)

    def _on_reset(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        if not stream or stream > self._highest or not stream & 1:
            raise ProtocolError(Code.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        if self._streams.pop(stream, None) is not None:
            self._ready.pop(stream, None)
            self._events.append(StreamReset(stream, _U32.unpack(payload)[0]))

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ProtocolError(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ProtocolError(Code.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            return
        if len(payload) % 6:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        for key, value in struct.iter_unpack(">HI", payload):
            self._on_setting(key, value)
        self._put(SETTINGS, ACK, 0)

    def _on_setting(self, key: int, value: int) -> None:
        if key == S_HEADER_TABLE_SIZE:
            self._encoder.header_table_size = min(value, 4096)
        elif key == S_ENABLE_PUSH and value > 1:
            raise ProtocolError(Code.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is 0 or 1")
        elif key == S_INITIAL_WINDOW:
            if value > LARGEST_WINDOW:
                raise ProtocolError(Code.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE too large")
            change = value - self._peer_initial_window
            self._peer_initial_window = value
            for number, state in self._streams.items():
                state.send_window += change
                if state.send_window > LARGEST_WINDOW:
                    raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window would overflow")
                self._wake(number, state)
        elif key == S_MAX_FRAME:
            if not 16384 <= value <= 0xFFFFFF:
                raise ProtocolError(Code.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range")
            self._peer_frame = min(value, 64 << 10)

    def _wake(self, number: int, state: _Stream) -> None:
        if state.outgoing or state.ending:
            self._ready[number] = None

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ProtocolError(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "PING of a wrong size")
        if not flags & ACK:
            self._put(PING, ACK, 0, payload)

    def _on_window_update(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        increment = _U32.unpack(payload)[0] & LARGEST_WINDOW
        if not increment:
            raise ProtocolError(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of 0", stream)
        if not stream:
            self._send_window += increment
            if self._send_window > LARGEST_WINDOW:
                raise ProtocolError(Code.FLOW_CONTROL_ERROR, "the connection's window would overflow")
            for number, state in self._streams.items():
                self._wake(number, state)
            return
        target = self._streams.get(stream)
        if target is None:
            if stream > self._highest or not stream & 1:
                raise ProtocolError(Code.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            return
        target.send_window += increment
        if target.send_window > LARGEST_WINDOW:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window would overflow", stream)
        self._wake(stream, target)


_FORBIDDEN = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))


def _check_request(headers: Headers, stream: int) -> None:
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
