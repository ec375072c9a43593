"""A recipe makes the tar of a layer again, byte for byte, from the layer's disk.

The digests of layers are those of the tars that were pulled, and `docker save` and `docker push` must send the same bytes. (moby does the
same with vbatts/tar-split.) A recipe is a zstandard stream of steps: `L`, a length, and as many bytes that are not on the disk; or `C`,
an offset in the disk, and a length.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from backports import zstd

from appliance.errors import ProtocolError

_LITERAL, _COPY = struct.Struct("<cI"), struct.Struct("<cQQ")
_LEVEL = 3
_PIECE = 1 << 20
_READ = 64 << 10
_DAMAGED = "a layer's recipe is damaged"


class RecipeWriter:
    """Writes a recipe while a tar is read in order. `close` finishes the file."""

    def __init__(self, out: BinaryIO) -> None:
        self._file = out
        self._compressor = zstd.ZstdCompressor(_LEVEL)
        # The last read. The next call tells whether these bytes went to the disk.
        self._last = b""
        self._start = self._length = 0

    def read(self, data: bytes) -> None:
        """Some bytes of the tar have been read."""
        self._settle()
        self._last = data

    def copied(self, offset: int) -> None:
        """The bytes of the last read are on the disk, at this offset."""
        size, self._last = len(self._last), b""
        if self._length and offset == self._start + self._length:
            self._length += size
            return
        self._flush_copy()
        self._start, self._length = offset, size

    def _settle(self) -> None:
        if self._last:
            self._flush_copy()
            self._write(_LITERAL.pack(b"L", len(self._last)) + self._last)
            self._last = b""

    def _flush_copy(self) -> None:
        if self._length:
            self._write(_COPY.pack(b"C", self._start, self._length))
            self._length = 0

    def close(self) -> None:
        """Write the last step. The underlying file stays open."""
        self._settle()
        self._flush_copy()
        self._file.write(self._compressor.flush())

    def _write(self, step: bytes) -> None:
        self._file.write(self._compressor.compress(step))


class _Steps:
    """Reads the bytes of a recipe. ProtocolError when they are damaged or incomplete."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = zstd.ZstdDecompressor()
        self._buffer = b""
        self._position = 0

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only at the end of a complete recipe."""
        while len(self._buffer) - self._position < size and not self._decoder.eof:
            compressed = b""
            if self._decoder.needs_input:
                compressed = self._file.read(_READ)
                if not compressed:
                    raise ProtocolError(_DAMAGED)
            try:
                # A few bytes may stand for gigabytes: a layer may end with any number of zeros.
                more = self._decoder.decompress(compressed, _PIECE)
            except zstd.ZstdError as error:
                raise ProtocolError(_DAMAGED) from error
            self._buffer, self._position = self._buffer[self._position :] + more, 0
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        data = self.read(size)
        if len(data) < size:
            raise ProtocolError(_DAMAGED)
        return data


def _steps_of(file: BinaryIO) -> Iterator[tuple[bytes | None, int, int]]:
    """The steps: a piece of a literal, and its size; or None, with offset and length of a copy."""
    steps = _Steps(file)
    while kind := steps.read(1):
        if kind == b"L":
            (size,) = struct.unpack("<I", steps.exactly(4))
            while size:
                literal = steps.exactly(min(_PIECE, size))
                yield literal, 0, len(literal)
                size -= len(literal)
        elif kind == b"C":
            offset, length = struct.unpack("<QQ", steps.exactly(16))
            yield None, offset, length
        else:
            raise ProtocolError(_DAMAGED)


def tar_of(recipe: Path, disk: Path, start: int = 0) -> Iterator[bytes]:
    """The tar of a layer, in pieces, from the byte `start` on. Blocking.

    ProtocolError or OSError when the recipe or the disk is damaged.
    """
    with open(recipe, "rb") as file, open(disk, "rb", buffering=0) as data:
        for literal, offset, length in _steps_of(file):
            skipped = min(start, length)
            start -= skipped
            if literal is not None:
                if skipped < length:
                    yield literal[skipped:]
                continue
            offset, left = offset + skipped, length - skipped
            while left:
                piece = os.pread(data.fileno(), min(_PIECE, left), offset)
                if not piece:
                    raise ProtocolError("a layer's disk is damaged")
                yield piece
                offset += len(piece)
                left -= len(piece)


def tar_size_of(recipe: Path) -> int:
    """Bytes of the tar that a recipe makes. Blocking; it reads the recipe alone. ProtocolError when the recipe is damaged."""
    with open(recipe, "rb") as file:
        return sum(length for _, _, length in _steps_of(file))
