"""Compressed streams, in pieces of any size."""

import bz2
import gzip
import lzma
from collections.abc import AsyncGenerator

import pytest
from backports import zstd

from appliance.errors import ProtocolError
from appliance.streams.compression import PIECE
from appliance.streams.decompressed import decompressed
from tests.steps import cpu_of_steps

_DATA = b"some data " * 5000
_FORMS = {
    "plain": _DATA,
    "gzip": gzip.compress(_DATA[:7]) + gzip.compress(_DATA[7:]),
    "bzip2": bz2.compress(_DATA),
    "xz": lzma.compress(_DATA),
    "zstd": zstd.compress(_DATA),
}


async def _pieces(data: bytes, size: int) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("size", [1, 7, 4096])
async def test_all_forms(form: str, size: int) -> None:
    data = _FORMS[form]
    assert b"".join([piece async for piece in decompressed(_pieces(data, size))]) == _DATA


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz", "zstd"])
async def test_a_damaged_one(form: str) -> None:
    magic = {"gzip": 2, "bzip2": 3, "xz": 6, "zstd": 4}[form]
    data = _FORMS[form][:magic] + b"\xff" * 100
    with pytest.raises(ProtocolError, match="cannot be decompressed"):
        [piece async for piece in decompressed(_pieces(data, 64))]


async def test_short_and_empty_ones() -> None:
    assert [piece async for piece in decompressed(_pieces(b"ab", 1))] == [b"ab"]
    assert [piece async for piece in decompressed(_pieces(b"", 1))] == []


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz", "zstd"])
async def test_a_stream_that_is_cut_off(form: str) -> None:
    with pytest.raises(ProtocolError, match="cannot be decompressed: unexpected EOF"):
        [piece async for piece in decompressed(_pieces(_FORMS[form][:-3], 64))]


_ZEROS = bytes(16 << 20)
_BOMBS = {"gzip": gzip.compress(_ZEROS), "bzip2": bz2.compress(_ZEROS), "zstd": zstd.compress(_ZEROS)}


@pytest.mark.parametrize("form", _BOMBS)
async def test_a_bomb_comes_in_pieces_and_holds_up_nobody(form: str) -> None:
    """One piece of input stands for 16 MiB. A block of bzip2 takes longer than a step may."""
    bomb = _BOMBS[form]
    total = longest = 0
    with cpu_of_steps() as steps:
        async for piece in decompressed(_pieces(bomb, len(bomb))):
            total += len(piece)
            longest = max(longest, len(piece))
    assert total == len(_ZEROS)
    assert longest <= PIECE
    assert steps.longest < 0.05
