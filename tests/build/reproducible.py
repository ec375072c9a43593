"""Whether a build gives the same bytes at another time, in another time zone, with another hash seed."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest


def different_files(
    make: Callable[[Path], dict[str, bytes]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The names of the files that differ between two runs of `make` in two folders; `make` returns contents by name."""
    (folder / "first").mkdir()
    first = make(folder / "first")
    assert first
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    # The times of FAT have a resolution of two seconds.
    time.sleep(2)
    (folder / "second").mkdir()
    second = make(folder / "second")
    assert first.keys() == second.keys()
    return [name for name in first if first[name] != second[name]]
