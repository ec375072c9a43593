"""Decoders: which one a stream gets, and how much they give at once."""

import bz2
import gzip
import lzma
import tracemalloc

import pytest
from backports import zstd

from appliance.errors import ProtocolError
from appliance.streams.compression import PIECE, decoder_for

_ZEROS = bytes(16 << 20)
_BOMBS = {
    "gzip": gzip.compress(_ZEROS),
    "bzip2": bz2.compress(_ZEROS),
    "xz": lzma.compress(_ZEROS, preset=1),
    "zstd": zstd.compress(_ZEROS),
}


@pytest.mark.parametrize("form", _BOMBS)
def test_output_comes_in_bounded_pieces(form: str) -> None:
    decoder = decoder_for(_BOMBS[form])
    tracemalloc.start()
    sizes = [len(piece) for piece in decoder.decompress(_BOMBS[form])]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    decoder.finish()
    assert sum(sizes) == len(_ZEROS)
    assert max(sizes) <= PIECE
    # A bzip2 block is 900 kB, and its decoder keeps 4 bytes for each of them.
    assert peak < 8 << 20


def test_no_compression() -> None:
    decoder = decoder_for(b"plain text")
    assert list(decoder.decompress(b"plain text")) == [b"plain text"]
    decoder.finish()


@pytest.mark.parametrize("form", _BOMBS)
def test_members_follow_each_other_and_the_last_is_complete(form: str) -> None:
    blob = _BOMBS[form]
    decoder = decoder_for(blob)
    assert sum(len(piece) for piece in decoder.decompress(blob + blob[:30])) >= len(_ZEROS)
    with pytest.raises(ProtocolError, match="unexpected EOF"):
        decoder.finish()


def test_a_window_that_needs_too_much_memory_is_refused() -> None:
    wide: dict[int, int] = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=wide)
    blob = compressor.compress(bytes(1000)) + compressor.flush()
    with pytest.raises(ProtocolError, match="cannot be decompressed"):
        list(decoder_for(blob).decompress(blob))
