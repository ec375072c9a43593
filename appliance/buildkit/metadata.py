"""Metadata of gRPC calls between HTTP/2 headers and grpcio (PROTOCOL-HTTP2.md of grpc)."""

import base64
import binascii
import re
import urllib.parse
from collections.abc import Sequence

from appliance.buildkit.errors import BuildkitError
from tether.rpc import http2
from tether.rpc.status import Code

# (name, value): a value is bytes if the name ends with "-bin", else text.
Metadata = Sequence[tuple[str, str | bytes]]

# They belong to the connection, or to how its two ends encode messages. Others that begin with "grpc-" are gRPC's own.
_HOP = frozenset(("te", "content-type", "content-length", "user-agent", "host", "connection"))
_NAME = re.compile(rb"[0-9a-z_.-]+")
_VALUE = re.compile(rb"[ -~]*")
_TIMEOUT = re.compile(rb"[0-9]{1,8}[HMSmun]")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MOST_TEXT = 64 << 10
_TEXT_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def clean_metadata_untrusted(headers: http2.Headers) -> Metadata:
    """What a client says about a call, for a call of our own. BuildkitError when gRPC does not allow a name or a value."""
    clean: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name.startswith(b":") or _belongs_to_hop(name.decode("latin-1")):
            continue
        if not _NAME.fullmatch(name):
            raise BuildkitError(Code.INVALID_ARGUMENT, f"the metadata has a malformed name: {name[:100]!r}")
        text = name.decode()
        if not text.endswith("-bin"):
            if not _VALUE.fullmatch(value):
                raise BuildkitError(Code.INVALID_ARGUMENT, f"the metadata {text[:100]} has a malformed value")
            clean.append((text, value.decode()))
            continue
        # Several values may be joined by commas.
        for part in value.split(b","):
            try:
                clean.append((text, base64.b64decode(part.strip() + b"=" * (-len(part.strip()) % 4), validate=True)))
            except binascii.Error as error:
                raise BuildkitError(Code.INVALID_ARGUMENT, f"the metadata {text[:100]} is not base64") from error
    return clean


def encode_metadata(metadata: Metadata) -> http2.Headers:
    """Headers of metadata that grpcio has received, without what belongs to its connection."""
    headers: http2.Headers = []
    for name, value in metadata:
        if _belongs_to_hop(name):
            continue
        if isinstance(value, bytes):
            headers.append((name.encode(), base64.b64encode(value).rstrip(b"=")))
        else:
            headers.append((name.encode(), value.encode()))
    return headers


def parse_timeout_untrusted(headers: http2.Headers) -> float | None:
    """`grpc-timeout` in seconds, None without it. BuildkitError when malformed."""
    for name, value in headers:
        if name == b"grpc-timeout":
            if not _TIMEOUT.fullmatch(value):
                raise BuildkitError(Code.INTERNAL, "malformed grpc-timeout")
            return int(value[:-1]) * _UNITS[value[-1:]]
    return None


def encode_text(text: str) -> bytes:
    """The value of `grpc-message`: percent-encoded UTF-8 of at most 64 KiB before the encoding."""
    short = text.encode("utf-8", "replace")[:_MOST_TEXT].decode("utf-8", "ignore")
    return urllib.parse.quote(short, safe=_TEXT_SAFE).encode()


def _belongs_to_hop(name: str) -> bool:
    return name in _HOP or (name.startswith("grpc-") and not name.endswith("-bin"))
