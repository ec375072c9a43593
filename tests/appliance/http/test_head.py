"""Heads: what is accepted, and what is refused because another parser could understand it differently."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ProtocolError
from appliance.http.body import ChunkedBody, FixedBody
from appliance.http.head import parse_head_untrusted

_POST = b"POST / HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n"


def test_a_head() -> None:
    head = parse_head_untrusted(b"POST /a?b=c HTTP/1.1\r\nHost: docker\r\nX-Many: one\r\nX-MANY: two\r\n\r\n")
    assert (head.method, head.target, head.http_version) == ("POST", "/a?b=c", "1.1")
    assert head.headers == {"host": "docker", "x-many": "two"}
    assert head.content_length == 0
    assert head.body().finished


def test_bodies() -> None:
    fixed = parse_head_untrusted(_POST % b"Content-Length: 5")
    assert fixed.content_length == 5
    assert isinstance(fixed.body(), FixedBody)
    chunked = parse_head_untrusted(_POST % b"Transfer-Encoding: Chunked")
    assert chunked.content_length is None
    assert isinstance(chunked.body(), ChunkedBody)


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: Upgrade, CLOSE\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_keep_alive(version: bytes, connection: bytes, kept: bool) -> None:
    assert parse_head_untrusted(b"GET / HTTP/%s\r\nHost: x\r\n%s\r\n" % (version, connection)).keep_alive is kept


def test_expect() -> None:
    assert parse_head_untrusted(_POST % b"Content-Length: 1\r\nExpect: 100-Continue").expects_continue
    assert not parse_head_untrusted(_POST % b"Content-Length: 1\r\nExpect: 200-ok").expects_continue


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Content-Length: -5",
        b"Content-Length: 0x5",
        b"Content-Length: 5 5",
        b"Content-Length: 5_0",
        b"Content-Length: \xb2",
        b"Content-Length:",
        b"Content-Length: 9999999999999999999",
        b"Content-Length: 99999999999999999999999",
        b"Content-Length : 5",
        b"Content-Length\t: 5",
        b" Content-Length: 5",
        b"A: b\r\n Content-Length: 5",
        b"A: b\r\n\tc",
        b"A: b\nContent-Length: 5",
        b"A: b\rContent-Length: 5",
        b"A: b\0c",
        b"A\0: b",
        b": b",
        b"A",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, gzip",
        b"Transfer-Encoding: \x0bchunked",
        b'Transfer-Encoding: "chunked"',
        b"Transfer-Encoding : chunked",
        b"Host: a\r\nHost: b",
    ],
)
def test_headers_that_smuggle(fields: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_head_untrusted(_POST % fields)


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n",
        b"\n\n\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"GET / HTTP/1.2\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1 \r\n\r\n",
        b"GET / HTTP/1.1\nA: b\r\n\r\n",
        b"GET / HTTP/1.1\n\nGET /second HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"NONSENSE / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_request_lines_that_are_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_head_untrusted(raw)


def test_the_last_of_repeated_headers_counts_and_all_values_of_a_list() -> None:
    methods = "".join(f"X-Docker-Expose-Session-Grpc-Method: /m{number}\r\n" for number in range(3))
    head = parse_head_untrusted(f"POST /session HTTP/1.1\r\nHost: x\r\nA: 1\r\na: 2\r\n{methods}\r\n".encode())
    assert head.headers["a"] == "2"
    assert head.headers["x-docker-expose-session-grpc-method"] == "/m0,/m1,/m2"


def test_a_repeated_head_is_parsed_once_and_a_write_each_time() -> None:
    read = b"GET /cached HTTP/1.1\r\nHost: docker\r\n\r\n"
    assert parse_head_untrusted(read) is parse_head_untrusted(read)
    write = b"POST /secret HTTP/1.1\r\nHost: x\r\nX-Registry-Auth: password\r\n\r\n"
    assert parse_head_untrusted(write) is not parse_head_untrusted(write)
    body = b"GET /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    assert parse_head_untrusted(body) is not parse_head_untrusted(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_an_error(noise: bytes) -> None:
    for raw in (
        noise + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + noise + b"\r\n\r\n",
        b"GET " + noise + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        if raw.find(b"\r\n\r\n") != len(raw) - 4:
            continue  # the connection hands over the bytes up to the first empty line
        try:
            head = parse_head_untrusted(raw)
        except ProtocolError:
            continue
        assert head.http_version in ("1.0", "1.1")
        assert "\n" not in head.target + "".join(head.headers.values())
