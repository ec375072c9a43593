"""The log file: entries, crashes, and which entries go when the file is bounded."""

import os
from pathlib import Path

import pytest

from appliance.streams.logfile import ENTRY_SIZE, LogFile

_LINE = b"0123456789" * 9 + b"012345678\n"


def fill(log: LogFile) -> None:
    log.append(1, 100, 8, b"one\ntwo\n")
    log.append(2, 200, 12, b"err\n")
    log.append(1, 300, 17, b"half ")
    log.append(2, 350, 21, b"mid\n")
    log.append(1, 400, 26, b"done\n")


def lines(log: LogFile, first: int) -> bytes:
    return b"".join(log.payload(entry) for entry in log.iterate(first, log.entries))


def test_entries_tail_and_times(tmp_path: Path) -> None:
    log = LogFile(tmp_path, framed=True)
    fill(log)
    assert lines(log, 0) == b"one\ntwo\nerr\nhalf mid\ndone\n"
    both, out = frozenset((1, 2)), frozenset((1,))
    assert lines(log, log.tail_start(1, out, log.entries)).endswith(b"half mid\ndone\n")
    assert lines(log, log.tail_start(2, out, log.entries)).startswith(b"two\n")
    assert log.tail_start(0, both, log.entries) == log.entries
    assert log.tail_start(99, both, log.entries) == 0
    assert lines(log, log.first_at(200)).startswith(b"err\n")
    assert log.guest_offset == 26
    log.close()


def test_reopened_after_a_crash_it_ends_where_the_index_ends(tmp_path: Path) -> None:
    log = LogFile(tmp_path, framed=True)
    fill(log)
    log.close()
    with open(tmp_path / "log.data", "ab") as data:
        data.write(b"no entry names this")
    with open(tmp_path / "log.index", "ab") as index:
        index.write(b"half an entry")
    log = LogFile(tmp_path, framed=True)
    assert (log.entries, log.guest_offset) == (6, 26)
    log.append(1, 500, 30, b"new\n")
    assert lines(log, 0).endswith(b"done\nnew\n")
    log.close()


def test_an_index_ahead_of_its_data_is_cut_back(tmp_path: Path) -> None:
    log = LogFile(tmp_path, framed=True)
    fill(log)
    log.close()
    os.truncate(tmp_path / "log.data", 30)
    log = LogFile(tmp_path, framed=True)
    assert log.entries == 2
    assert (tmp_path / "log.index").stat().st_size == 2 * ENTRY_SIZE
    assert log.guest_offset == 8
    log.close()


# -- limits ----------------------------------------------------------------------------------------------------------------


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
