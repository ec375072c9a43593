"""One client's connection: dispatches its frames, and gives its user events and an interface to answer."""

import struct
from collections import deque
from dataclasses import dataclass

from tether.rpc.http2.events import Closed, DataReceived, Event, RequestReceived, StreamReset
from tether.rpc.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_STREAM,
    GOAWAY,
    HEADERS,
    LARGEST_WINDOW,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    S_ENABLE_PUSH,
    S_HEADER_TABLE_SIZE,
    S_INITIAL_WINDOW,
    S_MAX_FRAME,
    S_MAX_HEADER_LIST,
    S_MAX_STREAMS,
    SETTINGS,
    U32,
    WINDOW_UPDATE,
    Code,
    Frame,
    FrameReader,
    ProtocolError,
    check_priority,
    unpad,
)
from tether.rpc.http2.headers import HeaderReader, Headers, check_request, content_length
from tether.rpc.http2.sending import MAX_HEADER_LIST, Sender
from tether.rpc.http2.streams import Stream, StreamTable


@dataclass(frozen=True, slots=True)
class Limits:
    # 512 connections of sockets (tether.agent.tunnel), and all other calls.
    max_streams: int = 768
    stream_window: int = 256 << 10
    connection_window: int = 16 << 20
    max_frame: int = 64 << 10
    max_header_list: int = 16 << 10
    # Of a header list that is sent. A longer list resets its stream.
    max_sent_header_list: int = MAX_HEADER_LIST
    # Answers (settings, ping) and resets that may wait for the line: a flood of either ends the connection.
    max_pending_control: int = 64 << 10


class ServerConnection:
    """One client. Call `receive_data`, then take all of `next_event`, then write what `data_to_send` returns.

    A stream's receive window opens as the user acknowledges data. The connection's window opens at once, so that a stream
    without a reader never stops the others.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.closed = False
        self._first_frame = True
        self._events: deque[Event] = deque()
        self._frames = FrameReader(self.limits.max_frame)
        self._headers = HeaderReader(self.limits.max_header_list)
        self._table = StreamTable()
        self._sender = Sender(self._table, self._events.append, self.limits.max_sent_header_list)
        self._receive_window = self.limits.connection_window
        self._received_unannounced = 0
        settings = (
            (S_MAX_STREAMS, self.limits.max_streams),
            (S_INITIAL_WINDOW, self.limits.stream_window),
            (S_MAX_FRAME, self.limits.max_frame),
            (S_MAX_HEADER_LIST, self.limits.max_header_list),
        )
        self._sender.put(SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in settings))
        self._sender.put(WINDOW_UPDATE, 0, 0, U32.pack(self.limits.connection_window - DEFAULT_WINDOW))

    # -- out ------------------------------------------------------------------------------------------------------

    def send_headers(self, stream: int, headers: Headers, *, end: bool = False) -> None:
        """Send response headers, or with `end` trailers, which follow queued data. A stream that is gone is ignored."""
        self._sender.send_headers(stream, headers, end=end)

    def send_data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Queue data. `outgoing_bytes` says how much waits; a `Writable` event comes when all has left."""
        self._sender.send_data(stream, data, end=end)

    def outgoing_bytes(self, stream: int) -> int:
        """Bytes queued for the stream; 0 also when it is gone."""
        state = self._table.open.get(stream)
        if state is None:
            return 0
        state.want_room = True
        return state.outgoing_bytes

    def reset(self, stream: int, code: Code) -> None:
        self._sender.reset(stream, code)

    def _put_goaway(self, code: Code, text: str) -> None:
        payload = U32.pack(self._table.highest) + U32.pack(code) + text.encode()[:128]
        self._sender.put(GOAWAY, 0, 0, payload)

    def acknowledge(self, stream: int, size: int) -> None:
        """The user took `size` bytes of the stream: open its window by as much."""
        state = self._table.open.get(stream)
        if state is None or state.remote_ended:
            return
        state.unacknowledged += size
        if state.unacknowledged >= self.limits.stream_window // 2:
            self._sender.put(WINDOW_UPDATE, 0, stream, U32.pack(state.unacknowledged))
            state.receive_window += state.unacknowledged
            state.unacknowledged = 0

    def pending(self) -> bool:
        """Whether `data_to_send` would return bytes now."""
        return self._sender.pending(closed=self.closed)

    def data_to_send(self, most: int = 256 << 10) -> bytes:
        """Return control frames and as much stream data as windows and `most` allow, streams taking turns."""
        return self._sender.take(most, closed=self.closed)

    # -- in -------------------------------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes of the client; errors become `Closed` or `StreamReset` events and frames to send, never exceptions."""
        if self.closed:
            return
        self._frames.feed(data)
        try:
            for frame in self._frames.frames_untrusted():
                self._take_frame_untrusted(frame)
        except ProtocolError as error:
            self.closed = True
            self._put_goaway(error.code, str(error))
            self._events.append(Closed(error.code, str(error)))
        if self.closed:
            self._frames.clear()

    def _take_frame_untrusted(self, frame: Frame) -> None:
        """Raises ProtocolError when the connection has to end; an error of one stream resets that stream."""
        try:
            self._dispatch(frame)
        except ProtocolError as error:
            if not error.stream:
                raise
            self._events.append(StreamReset(error.stream, error.code))
            if error.stream in self._table.open:
                self._sender.reset(error.stream, error.code)
            else:
                self._sender.put_reset(error.stream, error.code)
        if self._sender.pending_control > self.limits.max_pending_control:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "too many control frames")

    def _dispatch(self, frame: Frame) -> None:
        if self._first_frame:
            if frame.kind != SETTINGS or frame.flags & ACK:
                raise ProtocolError(Code.PROTOCOL_ERROR, "the preface lacks its SETTINGS")
            self._first_frame = False
        self._headers.check_order(frame)
        kind, flags, stream, payload = frame
        if kind == DATA:
            self._on_data(flags, stream, payload)
        elif kind == HEADERS:
            self._on_headers(frame)
        elif kind == CONTINUATION:
            self._on_block(stream, self._headers.continue_untrusted(frame))
        elif kind == WINDOW_UPDATE:
            self._on_window_update(stream, payload)
        elif kind == RST_STREAM:
            self._on_reset(stream, payload)
        elif kind == SETTINGS:
            self._on_settings(flags, stream, payload)
        elif kind == PING:
            self._on_ping(flags, stream, payload)
        elif kind == PRIORITY:
            check_priority(stream, payload)
        elif kind == PUSH_PROMISE:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a client must not push")
        elif kind == GOAWAY and stream:
            raise ProtocolError(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        # RFC 9113 section 5.5: unknown types are ignored.

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream:
            raise ProtocolError(Code.PROTOCOL_ERROR, "DATA on stream 0")
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "connection window exceeded")
        self._received_unannounced += size
        if self._received_unannounced >= self.limits.connection_window // 2:
            self._sender.put(WINDOW_UPDATE, 0, 0, U32.pack(self._received_unannounced))
            self._receive_window += self._received_unannounced
            self._received_unannounced = 0
        data = unpad(flags, payload)
        state = self._table.open.get(stream)
        if state is None:
            self._table.check_reset_here(stream)
            return
        ended = bool(flags & END_STREAM)
        state.receive(stream, data, size, ended)
        self._events.append(DataReceived(stream, data, size, ended))

    def _on_headers(self, frame: Frame) -> None:
        stream = frame.stream
        if not stream & 1:
            raise ProtocolError(Code.PROTOCOL_ERROR, "HEADERS on a stream that is not the client's")
        table = self._table
        if not table.is_idle(stream) and stream not in table.open and not table.was_reset_here(stream):
            raise ProtocolError(Code.STREAM_CLOSED, "HEADERS on a closed stream")
        self._on_block(stream, self._headers.start_untrusted(frame))

    def _on_block(self, stream: int, block: tuple[Headers, bool] | None) -> None:
        """A header block, once it is complete."""
        if block is None:
            return
        headers, ended = block
        state = self._table.open.get(stream)
        if state is not None:
            state.receive_trailers(stream, headers, ended)
            self._events.append(DataReceived(stream, b"", 0, True))
            return
        if not self._table.is_idle(stream):
            return  # Late trailers of a stream that was reset here. They had to be decoded: they change hpack's table.
        self._table.highest = stream
        check_request(headers, stream)
        if len(self._table.open) >= self.limits.max_streams:
            self._table.mark_reset(stream)
            self._sender.put_reset(stream, Code.REFUSED_STREAM)
            return
        state = Stream(self._sender.initial_window, self.limits.stream_window, remote_ended=ended)
        state.expected = content_length(headers, stream, ended)
        self._table.open[stream] = state
        self._events.append(RequestReceived(stream, headers, ended))

    def _on_reset(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        self._table.check_not_idle(stream, "RST_STREAM on an idle stream")
        if self._table.close(stream) is not None:
            self._sender.forget(stream)
            self._events.append(StreamReset(stream, U32.unpack(payload)[0]))

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
            if key == S_HEADER_TABLE_SIZE:
                self._sender.set_header_table(value)
            elif key == S_ENABLE_PUSH and value > 1:
                raise ProtocolError(Code.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is 0 or 1")
            elif key == S_INITIAL_WINDOW:
                self._sender.set_initial_window(value)
            elif key == S_MAX_FRAME:
                self._sender.set_max_frame(value)
        self._sender.put(SETTINGS, ACK, 0)

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ProtocolError(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "PING of a wrong size")
        if not flags & ACK:
            self._sender.put(PING, ACK, 0, payload)

    def _on_window_update(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        increment = U32.unpack(payload)[0] & LARGEST_WINDOW
        if not increment:
            raise ProtocolError(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of 0", stream)
        if not stream:
            self._sender.open_window(increment)
            return
        state = self._table.open.get(stream)
        if state is None:
            self._table.check_not_idle(stream, "WINDOW_UPDATE on an idle stream")
            return
        self._sender.open_stream_window(stream, state, increment)
