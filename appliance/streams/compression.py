"""Detects the compression of a stream by its first bytes (moby pkg/archive DetectCompression) and decompresses it piece by piece.

The output comes in pieces of bounded size, however small the input: a few bytes of a bomb stand for gigabytes.
"""

import bz2
import lzma
from collections.abc import Callable, Iterator
from typing import Protocol

from backports import zstd
from isal import igzip_lib

from appliance.errors import ProtocolError

PIECE = 256 << 10
"""The largest piece of output, in bytes."""
MAGIC = 6
"""As many bytes of a stream as `decoder_for` needs."""


class Decoder(Protocol):
    def decompress(self, data: bytes) -> Iterator[bytes]:
        """Decompress the next bytes, in pieces. Blocking. ProtocolError for damaged data. Iterate to the end before the next call."""

    def finish(self) -> None:
        """No more bytes come. ProtocolError for a stream that is cut off."""


class _Inner(Protocol):
    """What the decompressors of Python's standard library have in common, and those of the other libraries."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class Plain:
    """The decoder of a stream without compression."""

    def decompress(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        pass


class _Members:
    """Decompresses a sequence of compressed members: gzip(1) and others concatenate them."""

    def __init__(self, make: Callable[[], _Inner]) -> None:
        self._make = make
        self._member: _Inner | None = None

    def decompress(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member is None:
                self._member = self._make()
            member = self._member
            piece = _decompress(member, data)
            while piece:
                yield piece
                piece = b"" if member.eof or member.needs_input else _decompress(member, b"")
            data = b""
            if member.eof:
                data, self._member = member.unused_data, None

    def finish(self) -> None:
        if self._member is not None:
            raise ProtocolError("cannot be decompressed: unexpected EOF")


def _decompress(member: _Inner, data: bytes) -> bytes:
    try:
        return member.decompress(data, PIECE)
    except (igzip_lib.IsalError, zstd.ZstdError, lzma.LZMAError, OSError, EOFError, ValueError) as error:  # type: ignore[misc]  # isal's stubs
        raise ProtocolError(f"cannot be decompressed: {error}") from error
    except MemoryError as error:
        raise ProtocolError("cannot be decompressed: it needs too much memory") from error


_MAKERS: tuple[tuple[bytes, Callable[[], _Inner]], ...] = (
    (b"\x1f\x8b", lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)),
    (b"\x28\xb5\x2f\xfd", lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})),
    (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(memlimit=1 << 28)),
    (b"BZh", bz2.BZ2Decompressor),
)


def decoder_for(start: bytes) -> Decoder:
    """The decoder for a stream with this beginning. It passes a stream without compression through."""
    for magic, make in _MAKERS:
        if start.startswith(magic):
            return _Members(make)
    return Plain()
