"""What goes out: control frames at once, stream data in turns and within the peer's windows."""

from collections.abc import Callable

from hpack import Encoder, NeverIndexedHeaderTuple

from tether.rpc.http2.events import Event, StreamReset, Writable
from tether.rpc.http2.frames import (
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LARGEST_WINDOW,
    RST_STREAM,
    U32,
    Code,
    ProtocolError,
    frame_header,
)
from tether.rpc.http2.headers import Headers
from tether.rpc.http2.streams import Stream, StreamTable

_MOST_FRAME = 64 << 10
# The size of a header list as RFC 9113 6.5.2 counts it.
MAX_HEADER_LIST = 64 << 10
_ENTRY = 32
# hpack's Huffman coder takes quadratic time: 0.2 ms for this many bytes, 0.3 s for 64 KiB.
_LONGEST_HUFFMAN = 256


class Sender:
    """Queues frames for the line. `emit` receives `Writable` when a stream's data has left.

    A header list of more than `max_header_list` bytes resets its stream.
    """

    def __init__(
        self, table: StreamTable, emit: Callable[[Event], None], max_header_list: int = MAX_HEADER_LIST
    ) -> None:
        self._max_header_list = max_header_list
        self._table = table
        self._emit = emit
        self._encoder = Encoder()
        self._control = bytearray()
        # Streams that have something to send; a dictionary, for its order.
        self._ready: dict[int, None] = {}
        self._window = DEFAULT_WINDOW
        self._initial_window = DEFAULT_WINDOW
        self._max_frame = 16384

    @property
    def initial_window(self) -> int:
        """The send window of a new stream."""
        return self._initial_window

    @property
    def pending_control(self) -> int:
        """Bytes of control frames that wait for the line."""
        return len(self._control)

    # -- queueing -------------------------------------------------------------------------------------------------

    def put(self, kind: int, flags: int, stream: int, payload: bytes | bytearray = b"") -> None:
        """Queue a control frame."""
        self._control += frame_header(len(payload), kind, flags, stream) + payload

    def put_reset(self, stream: int, code: int) -> None:
        self.put(RST_STREAM, 0, stream, U32.pack(code))

    def reset(self, stream: int, code: Code) -> None:
        """End an open stream at once; its queued data is dropped."""
        if self._table.close(stream) is not None:
            self._ready.pop(stream, None)
            self._table.mark_reset(stream)
            self.put_reset(stream, code)

    def forget(self, stream: int) -> None:
        """The peer has reset the stream."""
        self._ready.pop(stream, None)

    def send_headers(self, stream: int, headers: Headers, *, end: bool) -> None:
        state = self._table.open.get(stream)
        if state is None or state.ending:
            return
        if sum(len(name) + len(value) + _ENTRY for name, value in headers) > self._max_header_list:
            self._emit(StreamReset(stream, Code.INTERNAL_ERROR))
            self.reset(stream, Code.INTERNAL_ERROR)
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
        block = b"".join(self._encode(name, value) for name, value in headers)
        flags = END_STREAM if end else 0
        kind = HEADERS
        for start in range(0, len(block), self._max_frame):
            part = block[start : start + self._max_frame]
            last = END_HEADERS if start + len(part) >= len(block) else 0
            self.put(kind, flags | last, stream, part)
            kind, flags = CONTINUATION, 0

    def _encode(self, name: bytes, value: bytes) -> bytes:
        if len(value) <= _LONGEST_HUFFMAN:
            return self._encoder.encode([(name, value)])
        # Not indexed either: a value that never comes again would only evict others from the table.
        return self._encoder.encode([NeverIndexedHeaderTuple(name, value)], huffman=False)

    def send_data(self, stream: int, data: bytes, *, end: bool) -> None:
        state = self._table.open.get(stream)
        if state is None or state.ending:
            return
        if data:
            state.outgoing.append(memoryview(data))
            state.outgoing_bytes += len(data)
        state.ending = end
        self._ready[stream] = None

    # -- taking ---------------------------------------------------------------------------------------------------

    def pending(self, *, closed: bool) -> bool:
        """Whether `take` would return bytes now."""
        return bool(self._control) or (bool(self._ready) and self._window > 0 and not closed)

    def take(self, most: int, *, closed: bool) -> bytes:
        """Return control frames and as much stream data as windows and `most` allow, streams taking turns.

        A connection that is `closed` sends its control frames alone.
        """
        parts: list[bytes | bytearray | memoryview] = [self._control] if self._control else []
        self._control = bytearray()
        size = 0
        while self._ready and size < most and not closed:
            progress = False
            for stream in list(self._ready):
                sent = self._take_frame(stream, self._table.open[stream], parts)
                if sent < 0:
                    self._ready.pop(stream, None)
                else:
                    progress = True
                    size += sent
            if not progress:
                break
        return b"".join(parts)

    def _take_frame(self, stream: int, state: Stream, parts: list[bytes | bytearray | memoryview]) -> int:
        """Take one frame of a stream; return its size, or -1 when the stream can send nothing (more) for now."""
        if not state.outgoing:
            if not state.ending:
                return -1
            if state.trailers is not None:
                self._put_headers(stream, state.trailers, True)
            else:
                self.put(DATA, END_STREAM, stream)
            parts.append(self._control)
            self._control = bytearray()
            self._finish(stream, state)
            return -1
        room = min(self._max_frame, state.send_window, self._window)
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
        self._window -= size
        end = state.ending and state.trailers is None and not state.outgoing
        parts.append(frame_header(size, DATA, END_STREAM if end else 0, stream))
        parts.append(chunk)
        if end:
            self._finish(stream, state)
            return -1
        if not state.outgoing and state.want_room:
            state.want_room = False
            self._emit(Writable(stream))
        return size

    def _finish(self, stream: int, state: Stream) -> None:
        """This end has sent all of the stream. RFC 9113 section 8.1: ask a client that still sends to stop."""
        self._ready.pop(stream, None)
        if self._table.close(stream) is not None and not state.remote_ended:
            self._table.mark_reset(stream)
            self.put_reset(stream, Code.NO_ERROR)

    # -- the peer's settings and windows --------------------------------------------------------------------------

    def set_header_table(self, size: int) -> None:
        self._encoder.header_table_size = min(size, 4096)

    def set_max_frame(self, size: int) -> None:
        if not 16384 <= size <= 0xFFFFFF:
            raise ProtocolError(Code.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range")
        self._max_frame = min(size, _MOST_FRAME)

    def set_initial_window(self, size: int) -> None:
        """RFC 9113 section 6.9.2: the change applies to all open streams."""
        if size > LARGEST_WINDOW:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE too large")
        change = size - self._initial_window
        self._initial_window = size
        for number, state in self._table.open.items():
            state.send_window += change
            if state.send_window > LARGEST_WINDOW:
                raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window would overflow")
            self._wake(number, state)

    def open_window(self, increment: int) -> None:
        """WINDOW_UPDATE of the connection."""
        self._window += increment
        if self._window > LARGEST_WINDOW:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "the connection's window would overflow")
        for number, state in self._table.open.items():
            self._wake(number, state)

    def open_stream_window(self, stream: int, state: Stream, increment: int) -> None:
        """WINDOW_UPDATE of a stream."""
        state.send_window += increment
        if state.send_window > LARGEST_WINDOW:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window would overflow", stream)
        self._wake(stream, state)

    def _wake(self, number: int, state: Stream) -> None:
        if state.outgoing or state.ending:
            self._ready[number] = None
