"""The head of a request (RFC 9112 2 to 5), sans-io: bytes in, a `Head` or a ProtocolError out."""

import re
from dataclasses import dataclass

import httptools

from appliance.errors import ProtocolError
from appliance.http.body import EMPTY, Body, ChunkedBody, FixedBody

MAX_HEAD = 64 << 10
END = b"\r\n\r\n"
# How the preface of HTTP/2 begins (RFC 9113 3.4): a client that knows that the server understands HTTP/2 sends it first.
PRIOR_KNOWLEDGE = b"PRI * HTTP/2.0\r\n\r\n"

# A repetition of one of these is how requests are smuggled past a proxy (RFC 9112 11.2).
_SINGULAR = frozenset(("content-length", "transfer-encoding", "host"))
# The methods of a session (X-Docker-Expose-Session-Grpc-Method): the values of all lines count (RFC 9110 5.3).
_LISTS = frozenset(("x-docker-expose-session-grpc-method",))
_CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")

_CACHED_HEAD_SIZE = 1024
_CACHED_HEADS = 512


@dataclass(frozen=True, slots=True)
class Head:
    """The request line and the headers of one request, and what they say about the connection.

    `headers` has names in lower case; of a repeated header the last value counts, but the values of a list are joined by commas.
    `content_length` is None for a chunked body, 0 for a request without a body.
    """

    method: str
    target: str
    headers: dict[str, str]
    http_version: str
    keep_alive: bool
    content_length: int | None
    expects_continue: bool

    def body(self) -> Body:
        """A new reader for the body that follows this head."""
        if self.content_length is None:
            return ChunkedBody()
        return FixedBody(self.content_length) if self.content_length else EMPTY


# What handlers get for a connection that begins with PRIOR_KNOWLEDGE. No request line of HTTP/1 has this method.
HTTP2_HEAD = Head("PRI", "*", {}, "2.0", keep_alive=False, content_length=0, expects_continue=False)


class _Callbacks:
    """What httptools calls while it parses one head."""

    __slots__ = ("complete", "headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[str, str] = {}
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        if key in _SINGULAR and key in self.headers:
            raise ProtocolError(f"repeated header {key}")
        text = value.decode("latin-1")
        if key in _LISTS and key in self.headers:
            text = f"{self.headers[key]},{text}"
        self.headers[key] = text

    def on_headers_complete(self) -> None:
        self.complete = True


# Clients repeat themselves: polls have the same head each time.
_cache: dict[bytes, Head] = {}


def parse_head_untrusted(raw: bytes) -> Head:
    """Parse a head with the empty line that ends it. ProtocolError for anything else than one HTTP/1.x head."""
    if (known := _cache.get(raw)) is not None:
        return known
    head = _parse_untrusted(raw)
    # Only heads of reads are kept. The headers of a write may hold a password for a registry.
    if head.method in ("GET", "HEAD") and head.content_length == 0 and len(raw) < _CACHED_HEAD_SIZE:
        if len(_cache) >= _CACHED_HEADS:
            _cache.clear()
        _cache[raw] = head
    return head


def _parse_untrusted(raw: bytes) -> Head:
    callbacks = _Callbacks()
    parser = httptools.HttpRequestParser(callbacks)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # an `Upgrade:` header or CONNECT: the router decides what follows
    except (httptools.HttpParserError, UnicodeDecodeError) as error:
        cause = error.__context__
        raise cause if isinstance(cause, ProtocolError) else ProtocolError(f"malformed request: {error}") from error
    if not callbacks.complete:
        raise ProtocolError("malformed request: the head has no request line")
    headers = callbacks.headers
    http_version = parser.get_http_version()
    if http_version not in ("1.0", "1.1"):
        raise ProtocolError(f"unsupported HTTP version {http_version}")
    if http_version == "1.1" and "host" not in headers:
        # RFC 9112 3.2. The text is that of Go's server.
        raise ProtocolError("missing required Host header")
    return Head(
        parser.get_method().decode("latin-1"),
        callbacks.target.decode("latin-1"),
        headers,
        http_version,
        _keeps_alive(headers, http_version),
        _content_length_untrusted(headers, http_version),
        headers.get("expect", "").lower() == "100-continue",
    )


def _keeps_alive(headers: dict[str, str], http_version: str) -> bool:
    """RFC 9112 9.3. (httptools answers this too, but is right only after the body.)"""
    options = {option.strip() for option in headers.get("connection", "").lower().split(",")}
    return "close" not in options and (http_version != "1.0" or "keep-alive" in options)


def _content_length_untrusted(headers: dict[str, str], http_version: str) -> int | None:
    """RFC 9112 6.3: None for a chunked body."""
    length, encoding = headers.get("content-length"), headers.get("transfer-encoding")
    if encoding is not None:
        if length is not None:
            raise ProtocolError("both Content-Length and Transfer-Encoding")
        if http_version == "1.0":
            raise ProtocolError("Transfer-Encoding in an HTTP/1.0 request")
        if encoding.lower() != "chunked":
            raise ProtocolError(f"unsupported transfer encoding {encoding}")
        return None
    if length is None:
        return 0
    if not _CONTENT_LENGTH.fullmatch(length):
        raise ProtocolError("malformed Content-Length")
    return int(length)
