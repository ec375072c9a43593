"""Detects the compression of a stream by its first bytes (moby pkg/archive DetectCompression) and decompresses it piece by piece."""

import bz2
import lzma
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

import zstandard
from isal import igzip_lib, isal_zlib

from appliance.errors import ProtocolError


class Decoder(Protocol):
    def decompress(self, data: bytes) -> bytes:
        """Decompress the next piece. ProtocolError for damaged data."""


class _Inner(Protocol):
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes) -> bytes: ...


class _Plain:
    def decompress(self, data: bytes) -> bytes:
        return data


class _Members:
    """Decompresses a sequence of compressed members: gzip(1) and others concatenate them."""

    def __init__(self, make: Callable[[], _Inner]) -> None:
        self._make = make
        self._decoder = make()

    def decompress(self, data: bytes) -> bytes:
        out = []
        try:
            while data:
                out.append(self._decoder.decompress(data))
                data = self._decoder.unused_data
                if data:
                    self._decoder = self._make()
        except (
            igzip_lib.IsalError,
            zlib.error,
            zstandard.ZstdError,
            lzma.LZMAError,
            OSError,
            EOFError,
            ValueError,
        ) as error:  # type: ignore[misc]  # isal's stubs
            raise ProtocolError(f"cannot be decompressed: {error}") from error
        return b"".join(out)


_MAKERS: tuple[tuple[bytes, Callable[[], _Inner]], ...] = (
    (b"\x1f\x8b", lambda: isal_zlib.decompressobj(31)),
    (b"\x28\xb5\x2f\xfd", lambda: zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()),
    (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(memlimit=1 << 28)),
    (b"BZh", bz2.BZ2Decompressor),
)


def decoder_for(start: bytes) -> Decoder:
    """The decoder for a stream with this beginning. It passes a stream without compression through."""
    for magic, make in _MAKERS:
        if start.startswith(magic):
            return _Members(make)
    return _Plain()


async def decompressed(source: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Decompress a stream, or pass it through if it is not compressed. ProtocolError for damaged data. Closes the source."""
    decoder: Decoder | None = None
    start = b""
    async with aclosing(source):
        async for data in source:
            if decoder is None:
                start += data
                if len(start) < 6:
                    continue
                decoder, data = decoder_for(start), start
            if out := decoder.decompress(data):
                yield out
    if decoder is None and start:
        yield decoder_for(start).decompress(start)
