"""Reads layers as tars, plain or compressed, in threads: for `docker save` and `docker push`."""

import hashlib
from collections.abc import AsyncGenerator, Iterator
from typing import IO

import trio
from isal import isal_zlib

from appliance.image.store import ImageStore

_PIECE = 256 << 10
_GZIP = 31  # zlib's window bits for a gzip member. Its header has no time, so that the bytes are the same each time


def batched(pieces: Iterator[bytes], size: int = _PIECE) -> Iterator[bytes]:
    """The same bytes in larger pieces."""
    waiting: list[bytes] = []
    length = 0
    for piece in pieces:
        waiting.append(piece)
        length += len(piece)
        if length >= size:
            yield b"".join(waiting)
            waiting, length = [], 0
    if waiting:
        yield b"".join(waiting)


async def in_thread(pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Iterate over a blocking iterator in threads."""
    while True:
        piece = await trio.to_thread.run_sync(next, pieces, None)
        if piece is None:
            return
        yield piece


def compress(store: ImageStore, diff_id: str, out: IO[bytes]) -> tuple[str, int]:
    """Write a layer's tar with gzip; return digest and size of the compressed bytes. Blocking."""
    compressor = isal_zlib.compressobj(level=2, wbits=_GZIP)
    digest = hashlib.sha256()
    size = 0
    for piece in batched(store.tar_of(diff_id)):
        data = compressor.compress(piece)
        digest.update(data)
        size += len(data)
        out.write(data)
    data = compressor.flush()
    digest.update(data)
    out.write(data)
    return f"sha256:{digest.hexdigest()}", size + len(data)
