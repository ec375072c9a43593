"""Converts a layer's blob (a compressed tar) into a read-only disk, and computes both digests on the way. Blocking.

The daemon does this in other processes, see conversion.py.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.image.erofs import NO_LIMITS, Limits, write_erofs
from appliance.image.recipe import RecipeWriter
from appliance.streams.compression import MAGIC, Decoder, decoder_for

Source = Callable[[], bytes]
"""Returns the next piece of the blob, b"" at its end. Blocking."""
_PIECE = 1 << 20


@dataclass(slots=True)
class FilePart:
    """A source: part of a file. A converter reads the file itself."""

    path: str
    offset: int
    size: int

    def __call__(self) -> bytes:
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            data = file.read(min(_PIECE, self.size))
        self.offset += len(data)
        self.size -= len(data)
        return data


class _Stream:
    """`read(n)` over the decompressed blob. Computes the digests of the blob and of the tar."""

    def __init__(self, source: Source, recipe: RecipeWriter) -> None:
        self._source = source
        self._recipe = recipe
        self.blob = hashlib.sha256()
        self.plain = hashlib.sha256()
        self.plain_size = 0
        self._pieces = self._decompress()
        self._buffer = b""
        self._position = 0

    def _pull(self) -> bytes:
        raw = self._source()
        self.blob.update(raw)
        return raw

    def _decompress(self) -> Iterator[bytes]:
        data = b""
        while len(data) < MAGIC:
            raw = self._pull()
            data += raw
            if not raw:
                break
        decoder: Decoder = decoder_for(data)
        more = len(data) >= MAGIC
        while data:
            for piece in decoder.decompress(data):
                self.plain.update(piece)
                self.plain_size += len(piece)
                yield piece
            # A source must not be read again after its end.
            data = self._pull() if more else b""
        decoder.finish()

    def read(self, size: int) -> bytes:
        have = len(self._buffer) - self._position
        if have < size:
            pieces = [self._buffer[self._position :]]
            for piece in self._pieces:
                pieces.append(piece)
                have += len(piece)
                if have >= size:
                    break
            self._buffer, self._position = b"".join(pieces), 0
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        self._recipe.read(data)
        return data

    def drain(self) -> None:
        """Read to the end of the blob: padding after the archive is part of both digests."""
        self._recipe.read(self._buffer[self._position :])
        self._buffer, self._position = b"", 0
        for piece in self._pieces:
            self._recipe.read(piece)


@dataclass(frozen=True, slots=True)
class Layer:
    """`digest`: of the blob. `diff_id`: digest of the tar. `size`: bytes of the files, as Docker counts. `disk_size`: bytes of the disk.

    `tar_size`: bytes of the tar.
    """

    digest: str
    diff_id: str
    size: int
    disk_size: int
    tar_size: int


def recipe_of(disk: Path) -> Path:
    """The file that says how to make the tar of a disk again."""
    return disk.with_name(f"{disk.name}.recipe")


def remove_disk(disk: Path) -> None:
    """Remove the disk of a layer and its recipe, as far as they exist."""
    disk.unlink(missing_ok=True)
    recipe_of(disk).unlink(missing_ok=True)


def convert_untrusted(source: Source, target: Path, recipe: Path, limits: Limits = NO_LIMITS) -> Layer:
    """Write the disk of a blob, and the recipe that makes its tar again; sync both.

    ProtocolError for a blob that is not a complete tar, QuotaExceeded or OSError (ENOSPC) for a layer beyond `limits`. Both files are
    removed then.
    """
    try:
        with open(target, "wb", buffering=1 << 20) as out, open(recipe, "wb", buffering=1 << 16) as steps:
            writer = RecipeWriter(steps)
            stream = _Stream(source, writer)
            result = write_erofs(stream.read, out, writer.copied, limits)
            stream.drain()
            writer.close()
            for file in (steps, out):
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        recipe.unlink(missing_ok=True)
        raise
    digest, diff_id = (f"sha256:{hashed.hexdigest()}" for hashed in (stream.blob, stream.plain))
    return Layer(digest, diff_id, result.content, result.size, stream.plain_size)
