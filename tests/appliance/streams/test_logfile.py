"""The log file: entries, crashes, and which entries go when the file is bounded."""

import os
import struct
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.streams.logfile import ENTRY_SIZE, LogFile, Place

_LINE = b"0123456789" * 9 + b"012345678\n"


def fill(log: LogFile) -> None:
    log.append(1, 100, 8, b"one\ntwo\n")
    log.append(2, 200, 12, b"err\n")
    log.append(1, 300, 17, b"half ")
    log.append(2, 350, 21, b"mid\n")
    log.append(1, 400, 26, b"done\n")


def lines(log: LogFile, place: Place) -> bytes:
    """The output from a place on, read twice: by entries, and as a client receives the file."""
    found = [line for entry in log.iterate(place.entry, log.entries) for line in log.lines(entry)][place.line :]
    start = log.position(place)
    raw = log.read(start, log.position(Place(log.entries)) - start)
    if log.framed:
        frames = b""
        while raw:
            size = int.from_bytes(raw[4:8], "big")
            frames, raw = frames + raw[8 : 8 + size], raw[8 + size :]
        raw = frames
    assert raw == b"".join(found)
    return raw


def test_entries_tail_and_times(tmp_path: Path) -> None:
    log = LogFile(tmp_path, framed=True)
    fill(log)
    assert lines(log, Place(0)) == b"one\ntwo\nerr\nhalf mid\ndone\n"
    both, out = frozenset((1, 2)), frozenset((1,))
    assert lines(log, log.tail_start(1, out, log.entries)).endswith(b"half mid\ndone\n")
    assert lines(log, log.tail_start(2, out, log.entries)).startswith(b"two\n")
    assert log.tail_start(0, both, log.entries) == Place(log.entries)
    assert log.tail_start(99, both, log.entries) == Place(0)
    assert lines(log, Place(log.first_at(200))).startswith(b"err\n")
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
    assert (log.entries, log.guest_offset) == (5, 26)
    log.append(1, 500, 30, b"new\n")
    assert lines(log, Place(0)).endswith(b"done\nnew\n")
    log.close()


def test_an_index_ahead_of_its_data_is_cut_back(tmp_path: Path) -> None:
    log = LogFile(tmp_path, framed=True)
    fill(log)
    log.close()
    os.truncate(tmp_path / "log.data", 30)
    log = LogFile(tmp_path, framed=True)
    assert log.entries == 1
    assert (tmp_path / "log.index").stat().st_size == ENTRY_SIZE
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
    size = sum(entry.length + ENTRY_SIZE for entry in log.iterate(log.first, log.entries))
    assert 100_000 - 200 < size <= 150_000
    assert log.payload(log.entry(log.first)) == _LINE
    assert log.entry(log.first).time_ns == 1000 + log.first
    # Also by time and from the end.
    assert log.first_at(0) == log.first
    assert log.first_at(1000 + 4990) == 4990
    assert log.tail_start(3, frozenset((1,)), log.entries) == Place(4997)
    assert log.tail_start(100_000, frozenset((1,)), log.entries) == Place(log.first)
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


# -- floods ----------------------------------------------------------------------------------------------------------------


def used(folder: Path) -> int:
    """What the log takes on disk, in bytes."""
    return sum((folder / name).stat().st_blocks * 512 for name in ("log.data", "log.index"))


@pytest.mark.parametrize("framed", [True, False])
def test_lines_of_one_byte_take_a_few_times_their_size_and_little_time(tmp_path: Path, framed: bool) -> None:
    """Version 0.1 took 41 bytes for a line feed, and 1.9 s for a MiB of them. dockerd's json-file takes 77 bytes."""
    log = LogFile(tmp_path, framed=framed)
    started = time.thread_time()
    log.append(1, 7, 256 << 10, b"\n" * (256 << 10))
    # Version 0.1 took 0.45 s here.
    assert time.thread_time() - started < 0.15
    assert used(tmp_path) < (256 << 10) * (10 if framed else 1.1)
    assert log.entries == 64
    # Found again from the end, in a file of a quarter of a million lines.
    place = log.tail_start(10_000, frozenset((1,)), log.entries)
    assert lines(log, place) == b"\n" * 10_000
    log.close()


def test_long_lines_are_stored_in_parts_of_16_kib(tmp_path: Path) -> None:
    """As moby's daemon/logger/copier.go does. A record of a hostile guest is as long as a message may be."""
    log = LogFile(tmp_path, framed=True)
    log.append(1, 5, 4 << 20, b"a\n" + b"x" * ((4 << 20) - 8) + b"\nend\n\n")
    entries = list(log.iterate(0, log.entries))
    assert max(entry.length for entry in entries) <= (64 << 10) + 8 * 4096
    assert max(len(line) for entry in entries for line in log.lines(entry)) == 16 << 10
    assert [entry.partial for entry in entries[:3]] == [False, True, True]
    assert not entries[-1].partial
    assert sum(entry.lines - entry.partial for entry in entries) == 4
    both = frozenset((1, 2))
    assert lines(log, log.tail_start(2, both, log.entries)) == b"end\n\n"
    assert len(lines(log, log.tail_start(3, both, log.entries))) == (4 << 20) - 8 + 1 + 5
    log.close()


def test_outputs_of_one_byte_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogFile(tmp_path, framed=True)
    calls: list[int] = []
    real = os.pwrite

    def counted(fd: int, data: bytes, at: int) -> int:
        calls.append(fd)
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", counted)
    log.append_all([(1 + number % 2, number, number + 1, b"x") for number in range(1000)])
    assert len(calls) == 2
    assert (log.entries, log.guest_offset) == (1000, 1000)
    assert lines(log, Place(0)) == b"x" * 1000
    log.close()


def test_the_index_counts_in_the_limit(tmp_path: Path) -> None:
    log = LogFile(tmp_path, framed=False, piece=32_000, pieces=2)
    for number in range(20_000):
        log.append(1, number, number + 1, b"\n")
    assert (log.entries - log.first) * (ENTRY_SIZE + 1) <= 64_000
    assert used(tmp_path) < 100_000
    log.close()


def test_what_a_reader_uses_is_kept_until_it_is_done(tmp_path: Path) -> None:
    log = LogFile(tmp_path, framed=True, piece=20_000, pieces=2)
    _fill(log, 0, 100)
    start, end = log.entry(10).position, log.entry(20).position
    before = log.read(start, end - start)
    with log.pinned(start, end):
        _fill(log, 100, 2000)
        assert log.first > 20
        assert log.read(start, end - start) == before
        assert used(tmp_path) < 100_000
        log.close()
        assert log.read(start, end - start) == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.read(start, 1)
    log.close()


def test_a_log_of_version_0_1_is_read(tmp_path: Path) -> None:
    """One entry for each line, and zeros where the number of lines is now."""
    parts = [(1, b"one\n", 0), (1, b"half ", 1), (2, b"err\n", 0), (1, b"done\n", 0)]
    position = offset = 0
    with open(tmp_path / "log.data", "wb") as data, open(tmp_path / "log.index", "wb") as index:
        for number, (stream, text, flags) in enumerate(parts):
            data.write(struct.pack(">BxxxI", stream, len(text)) + text)
            offset += len(text)
            index.write(struct.pack("<QQQIBBxx", number, position, offset, len(text) + 8, stream, flags))
            position += len(text) + 8
    log = LogFile(tmp_path, framed=True)
    assert (log.entries, log.guest_offset) == (4, offset)
    assert [entry.lines for entry in log.iterate(0, 4)] == [1] * 4
    assert lines(log, Place(0)) == b"one\nhalf err\ndone\n"
    assert lines(log, log.tail_start(1, frozenset((1,)), 4)) == b"half err\ndone\n"
    log.append(1, 9, offset + 4, b"a\nb\n")
    assert lines(log, log.tail_start(1, frozenset((1, 2)), 5)) == b"b\n"
    log.close()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 2), st.text("ab\n", min_size=1, max_size=12)), max_size=8),
    st.integers(1, 12),
    st.booleans(),
)
def test_the_tail_of_any_output(outputs: list[tuple[int, str]], count: int, framed: bool) -> None:
    """The tail has the last lines of all streams; a line that one output begins and a later one ends is one line."""
    with tempfile.TemporaryDirectory() as folder:
        log = LogFile(Path(folder), framed=framed)
        offset = 0
        if not framed:
            outputs = [(1, text) for _, text in outputs]
        for stream, text in outputs:
            offset += len(text)
            log.append(stream, 5, offset, text.encode())
        for stream in (1, 2):
            whole = "".join(text for one, text in outputs if one == stream)
            expected = whole.splitlines(True)[-count:]
            place = log.tail_start(count, frozenset((stream,)), log.entries)
            found, skip = [], place.line
            for entry in log.iterate(place.entry, log.entries):
                if entry.stream == stream:
                    found += log.lines(entry)[skip:]
                skip = 0
            assert b"".join(found).decode() == "".join(expected)
        log.close()
