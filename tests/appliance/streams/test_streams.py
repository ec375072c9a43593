"""Detach keys and the log file."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import InvalidParameter
from appliance.streams.detach import DetachScanner, parse_keys
from appliance.streams.logfile import ENTRY_SIZE, LogFile


@pytest.mark.parametrize(
    ("text", "keys"),
    [("", b"\x10\x11"), ("ctrl-a,x", b"\x01x"), ("ctrl-[", b"\x1b"), ("q", b"q"), ("ctrl-@,ctrl-_", b"\x00\x1f")],
)
def test_keys(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "a,,b", "é"])
def test_bad_keys(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_keys(text)


@given(st.binary(max_size=50), st.lists(st.integers(1, 7), max_size=20))
def test_the_scanner_loses_no_input(data: bytes, cuts: list[int]) -> None:
    scanner = DetachScanner(b"\x10\x11")
    out = b""
    rest = data
    detached = False
    for cut in [*cuts, 100]:
        piece, detached = scanner.feed(rest[:cut])
        out += piece
        rest = rest[cut:]
        if detached:
            break
    before = data.partition(b"\x10\x11")
    if detached:
        assert out == before[0]
    else:
        assert before[1] == b""
        assert out == data.removesuffix(b"\x10")


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
