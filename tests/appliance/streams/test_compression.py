"""Compressed streams, in pieces of any size."""

import bz2
import gzip
import lzma
from collections.abc import AsyncGenerator

import pytest
import zstandard

from appliance.errors import ProtocolError
from appliance.streams.compression import decompressed

_DATA = b"some data " * 5000
_FORMS = {
    "plain": _DATA,
    "gzip": gzip.compress(_DATA[:7]) + gzip.compress(_DATA[7:]),
    "bzip2": bz2.compress(_DATA),
    "xz": lzma.compress(_DATA),
    "zstd": zstandard.compress(_DATA),
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
