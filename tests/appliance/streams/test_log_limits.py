"""A log that is kept short: what is dropped, and what the rest still says."""

from pathlib import Path

import pytest

from appliance.streams.logfile import LogFile

_LINE = b"0123456789" * 9 + b"012345678\n"


def _fill(log: LogFile, first: int, count: int) -> None:
    for number in range(first, first + count):
        log.append(1, 1000 + number, (number + 1) * len(_LINE), _LINE)


@pytest.mark.parametrize("framed", [True, False])
def test_the_oldest_piece_goes(tmp_path: Path, framed: bool) -> None:
    log = LogFile(tmp_path, framed=framed, piece=50_000, pieces=3)
    _fill(log, 0, 5000)
    size = sum(entry.length for entry in log.iterate(log.first, log.entries))
    assert 100_000 - 200 < size <= 150_000
    assert log.payload(log.entry(log.first)) == _LINE
    assert log.entry(log.first).time_ns == 1000 + log.first
    # Also by time and from the end.
    assert log.first_at(0) == log.first
    assert log.first_at(1000 + 4990) == 4990
    assert log.tail_start(3, frozenset((1,)), log.entries) == 4997
    assert log.tail_start(100_000, frozenset((1,)), log.entries) == log.first
    used = sum((tmp_path / name).stat().st_blocks * 512 for name in ("log.data", "log.index"))
    assert used < 250_000
    first, guest = log.first, log.guest_offset
    log.close()
    again = LogFile(tmp_path, framed=framed, piece=50_000, pieces=3)
    assert (again.first, again.entries, again.guest_offset) == (first, 5000, guest)
    _fill(again, 5000, 2000)
    assert again.first > first
    assert again.payload(again.entry(again.first)) == _LINE
    again.close()


def test_without_a_limit_nothing_goes(tmp_path: Path) -> None:
    log = LogFile(tmp_path, framed=True)
    _fill(log, 0, 3000)
    assert log.first == 0
    log.close()


def test_a_single_line_larger_than_all_is_kept(tmp_path: Path) -> None:
    log = LogFile(tmp_path, framed=True, piece=1000, pieces=1)
    log.append(1, 5, 5000, b"x" * 4999 + b"\n")
    assert log.first == 0
    log.append(1, 6, 5010, b"y" * 9 + b"\n")
    assert log.first == 1
    assert log.payload(log.entry(1)) == b"y" * 9 + b"\n"
    log.close()
