"""Converts a layer's blob (a compressed tar) into a read-only disk, and computes both digests on the way. Blocking; runs in threads."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from appliance.image.erofs import write_erofs
from appliance.image.recipe import RecipeWriter
from appliance.streams.compression import Decoder, decoder_for

Source = Callable[[], bytes]
"""Returns the next piece of the blob, b"" at its end."""


def received(channel: "trio.MemoryReceiveChannel[bytes]") -> Source:
    """A source that receives pieces from a channel. For use in a thread that trio has started."""

    def source() -> bytes:
        try:
            return trio.from_thread.run(channel.receive)
        except trio.EndOfChannel:
            return b""

    return source


class _Stream:
    """`read(n)` over the decompressed blob. Computes the digests of the blob and of the tar."""

    def __init__(self, source: Source, recipe: RecipeWriter) -> None:
        self._source = source
        self._recipe = recipe
        self.blob = hashlib.sha256()
        self.plain = hashlib.sha256()
        self._decoder: Decoder | None = None
        self._buffer = b""
        self._position = 0

    def _more(self) -> bool:
        raw = self._source()
        if not raw:
            return False
        self.blob.update(raw)
        if self._decoder is None:
            self._decoder = decoder_for(raw)
        data = self._decoder.decompress(raw)
        self.plain.update(data)
        self._buffer = self._buffer[self._position :] + data
        self._position = 0
        return True

    def read(self, size: int) -> bytes:
        while len(self._buffer) - self._position < size:
            if not self._more():
                break
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        self._recipe.read(data)
        return data

    def drain(self) -> None:
        """Read to the end of the blob: padding after the archive is part of both digests."""
        more = True
        while more:
            self._recipe.read(self._buffer[self._position :])
            self._buffer, self._position = b"", 0
            more = self._more()


@dataclass(frozen=True, slots=True)
class Layer:
    """`digest`: of the blob. `diff_id`: digest of the tar. `size`: bytes of the files, as Docker counts. `disk_size`: bytes of the disk."""

    digest: str
    diff_id: str
    size: int
    disk_size: int


def convert_untrusted(source: Source, target: Path, recipe: Path) -> Layer:
    """Write the disk of a blob, and the recipe that makes its tar again; sync both.

    ProtocolError for a blob that is not a complete tar; both files are removed then.
    """
    try:
        with open(target, "wb", buffering=1 << 20) as out, open(recipe, "wb", buffering=1 << 16) as steps:
            writer = RecipeWriter(steps)
            stream = _Stream(source, writer)
            result = write_erofs(stream.read, out, writer.copied)
            stream.drain()
            writer.close()
            for file in (steps, out):
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        recipe.unlink(missing_ok=True)
        raise
    return Layer(f"sha256:{stream.blob.hexdigest()}", f"sha256:{stream.plain.hexdigest()}", result.content, result.size)
