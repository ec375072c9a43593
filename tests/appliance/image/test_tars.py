"""Layers as tars on their way out."""

import gzip
import hashlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path

from appliance.image.tars import batched, compress, in_thread
from tests.appliance.image.test_pull import opened_store
from tests.archives import Pieces, Tar


def test_small_pieces_become_larger_ones() -> None:
    pieces = [b"x" * number for number in (1, 2, 3, 50, 0, 4)]
    assert list(batched(iter(pieces), 5)) == [b"x" * 6, b"x" * 50, b"x" * 4]
    assert list(batched(iter([]), 5)) == []


async def test_a_blocking_iterator_runs_in_threads() -> None:
    here = threading.get_ident()
    threads: list[int] = []

    def blocking() -> Iterator[bytes]:
        for number in range(3):
            threads.append(threading.get_ident())
            yield b"%d" % number

    assert [piece async for piece in in_thread(blocking())] == [b"0", b"1", b"2"]
    assert here not in threads


async def test_the_same_layer_compresses_to_the_same_bytes(tmp_path: Path) -> None:
    tar = Tar().add("file", b"content" * 30_000).bytes()
    async with opened_store(tmp_path) as store:
        layer = await store.add_new_layer(Pieces(tar))
        assert store.tar_size(layer.diff_id) == len(tar)
        outs = [io.BytesIO(), io.BytesIO()]
        results = [compress(store, layer.diff_id, out) for out in outs]
    assert results[0] == results[1]
    digest, size = results[0]
    assert (digest, size) == (f"sha256:{hashlib.sha256(outs[0].getvalue()).hexdigest()}", len(outs[0].getvalue()))
    assert outs[0].getvalue() == outs[1].getvalue()
    assert gzip.decompress(outs[0].getvalue()) == tar
