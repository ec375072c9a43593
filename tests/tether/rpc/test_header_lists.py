"""Header lists of HTTP/2 both ways: their size and what they cost."""

import struct
import time

import pytest
from hpack import Decoder, Encoder

from tether.rpc import http2
from tether.rpc.http2.frames import CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame_header
from tether.rpc.http2.sending import MAX_HEADER_LIST

_REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/t/Unary")]


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return frame_header(len(payload), kind, flags, stream) + payload


def _connection() -> http2.ServerConnection:
    connection = http2.ServerConnection()
    connection.receive_data(PREFACE + _frame(SETTINGS, 0, 0))
    connection.receive_data(_frame(HEADERS, END_HEADERS | END_STREAM, 1, Encoder().encode(_REQUEST)))
    assert isinstance(connection.next_event(), http2.RequestReceived)
    connection.data_to_send()
    return connection


def _frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """(kind, flags, payload) of each frame."""
    found = []
    while data:
        high, low, kind, flags, _ = struct.unpack(">HBBBI", data[:9])
        size = high << 8 | low
        found.append((kind, flags, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def test_long_values_cross_in_linear_time() -> None:
    connection = _connection()
    headers = [(b":status", b"200"), (b"long", b"x" * 60_000), (b"short", b"y")]
    begin = time.thread_time()
    connection.send_headers(1, headers, end=True)
    assert time.thread_time() - begin < 0.05
    frames = _frames(connection.data_to_send())
    assert [kind for kind, _, _ in frames[:2]] == [HEADERS, CONTINUATION]
    block = b"".join(payload for kind, _, payload in frames if kind in (HEADERS, CONTINUATION))
    found = Decoder(max_header_list_size=1 << 20).decode(block, raw=True)
    assert [(bytes(name), bytes(value)) for name, value in found] == headers


def test_a_list_that_is_too_large_resets_its_stream() -> None:
    connection = _connection()
    connection.send_headers(1, [(b":status", b"200"), (b"long", b"x" * MAX_HEADER_LIST)], end=True)
    assert connection.next_event() == http2.StreamReset(1, http2.Code.INTERNAL_ERROR)
    assert not connection._table.open
    assert not connection.closed


@pytest.mark.parametrize("payload", [b"", b"x" * 1000])
def test_a_block_without_an_end_is_bounded(payload: bytes) -> None:
    """As CVE-2024-27316: CONTINUATION frames without end, also empty ones."""
    connection = _connection()
    connection.receive_data(_frame(HEADERS, 0, 3, b""))
    connection.receive_data(_frame(CONTINUATION, 0, 3, payload) * 100)
    closed = connection.next_event()
    assert isinstance(closed, http2.Closed)
    assert closed.code is http2.Code.ENHANCE_YOUR_CALM


def test_a_list_that_grows_by_the_table_is_bounded() -> None:
    """Each byte of such a block is a header of 4000 bytes."""
    encoder = Encoder()
    block = encoder.encode([*_REQUEST, (b"bomb", b"x" * 4000)])
    block += encoder.encode([(b"bomb", b"x" * 4000)]) * 1000
    connection = _connection()
    connection.receive_data(_frame(HEADERS, END_HEADERS, 3, block))
    closed = connection.next_event()
    assert isinstance(closed, http2.Closed)
    assert closed.code is http2.Code.ENHANCE_YOUR_CALM
