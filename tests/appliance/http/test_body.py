"""Bodies: by length and by chunks, split at every byte; broken framing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ProtocolError
from appliance.http.body import EMPTY, MAX_LINE, MAX_TRAILERS, Body, ChunkedBody, FixedBody


def _read(body: Body, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """The content, and the bytes that come behind the body."""
    received, content = bytearray(), b""
    for piece in pieces:
        received += piece
        while part := body.take_untrusted(received):
            content += part
    return content, bytes(received)


def test_a_fixed_body_takes_its_length_and_no_more() -> None:
    body = FixedBody(5)
    assert _read(body, [b"ab", b"cdeGET"]) == (b"abcde", b"GET")
    assert body.finished


def test_no_body() -> None:
    assert EMPTY.finished
    assert _read(EMPTY, [b"GET"]) == (b"", b"GET")


_CHUNKED = b"3\r\nabc\r\n0A;name=value\r\n0123456789\r\n1 \t; x\r\n!\r\n0\r\nTrailer: 1\r\n\r\n"


@pytest.mark.parametrize("cut", range(len(_CHUNKED) + 4))
def test_chunks_that_are_cut_anywhere(cut: int) -> None:
    sent = _CHUNKED + b"GET "
    body = ChunkedBody()
    assert _read(body, [sent[:cut], sent[cut:]]) == (b"abc0123456789!", b"GET ")
    assert body.finished


def test_chunks_that_come_byte_by_byte() -> None:
    body = ChunkedBody()
    assert _read(body, [bytes((byte,)) for byte in _CHUNKED]) == (b"abc0123456789!", b"")
    assert body.finished


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=20), st.integers(1, 50))
def test_any_content_comes_through(chunks: list[bytes], step: int) -> None:
    sent = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\nrest"
    body = ChunkedBody()
    content, rest = _read(body, [sent[start : start + step] for start in range(0, len(sent), step)])
    assert (content, rest, body.finished) == (b"".join(chunks), b"rest", True)


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1_0\r\n",
        b"g\r\n",
        b";x\r\n",
        b"1\n\r\n",
        b"1\nx\r\n",
        b"1;a\nb\r\n",
        b"1;a\rb\r\n",
        b"1" * 16 + b"\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\nb\r\n",
        b"1\r\na0\r\n\r\n",
        b"0\r\na\nb\r\n\r\n",
        b"1;" + b"x" * MAX_LINE + b"\r\n",
        b"1" * (MAX_LINE + 1),
    ],
)
def test_broken_chunks(sent: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed chunk"):
        _read(ChunkedBody(), [sent])
    with pytest.raises(ProtocolError, match="malformed chunk"):
        _read(ChunkedBody(), [bytes((byte,)) for byte in sent])


def test_trailers_are_bounded() -> None:
    with pytest.raises(ProtocolError, match="malformed chunk"):
        _read(ChunkedBody(), [b"0\r\n", *[b"A: b\r\n"] * (MAX_TRAILERS // 4 + 1)])


def test_one_call_takes_many_small_chunks_but_not_all() -> None:
    received = bytearray(b"1\r\nx\r\n" * 10_000)
    body = ChunkedBody()
    assert body.take_untrusted(received) == b"x" * 256
    assert len(received) > 50_000


def test_chunk_extensions_are_bounded_but_chunks_of_one_byte_are_not() -> None:
    """The limit of Go's net/http/internal/chunked.go."""
    assert _read(ChunkedBody(), [b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"])[0] == b"x" * 20_000
    with pytest.raises(ProtocolError, match="chunked encoding contains too much non-data"):
        _read(ChunkedBody(), [b"1;" + b"e" * 100 + b"\r\nx\r\n" for _ in range(1000)])
