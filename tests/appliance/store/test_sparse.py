"""Copies of sparse files."""

import os
from pathlib import Path

import pytest

from appliance.store.sparse import copy_holes

_MIB = 1 << 20


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [(0, b"at the start")],
        [(3 * _MIB, b"in the middle")],
        [(0, b"x" * 5000), (4 * _MIB, b"y" * 70_000), (8 * _MIB - 3, b"end")],
    ],
)
def test_bytes_and_holes_are_kept(tmp_path: Path, pieces: list[tuple[int, bytes]]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with open(source, "wb") as file:
        file.truncate(8 * _MIB)
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
    with open(source, "rb") as one, open(target, "wb") as other:
        copy_holes(one.fileno(), other.fileno())
    assert target.read_bytes() == source.read_bytes()
    assert os.stat(target).st_blocks <= os.stat(source).st_blocks
