"""The room on a file system."""

import os
from pathlib import Path

import pytest

from appliance.store import room_on

_GIB = 1 << 30


@pytest.mark.parametrize(
    ("size", "free", "room"),
    [(100 * _GIB, 50 * _GIB, 50 * _GIB - (256 << 20)), (2 << 20, 1 << 20, (1 << 20) - (2 << 20) // 20), (_GIB, 5, 0)],
)
def test_a_reserve_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int, free: int, room: int) -> None:
    found = list(os.statvfs(tmp_path))
    found[0] = found[1] = 1  # f_bsize, f_frsize
    found[2], found[3], found[4] = size, free, free
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(found))
    assert room_on(tmp_path) == room
