"""A container's log on disk: `log.data`, already framed for the wire, and `log.index`, one entry of fixed size for some lines.

An entry stands for the lines that the guest read at once, so that a program that writes only line feeds does not take 40 bytes for
each. In the data each line has a frame of its own, as clients of Docker expect.

An entry holds the time, the stream, the position in the data file, and the offset in the guest's output that it reaches. After a crash,
vchd continues to read the guest's output at the offset of the last entry. Data is written before its entry, so data exists for every
entry; bytes after the last entry are cut off when the log is opened.

Entry, little endian: time ns u64, position u64, guest offset after it u64, length u32 (frame header included), stream u8,
flags u8 (1: the last line continues in the next entry of the stream), number of lines - 1 u16 (version 0.1 always wrote 0).
"""

import contextlib
import ctypes
import functools
import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.streams import stdcopy

_ENTRY = struct.Struct("<QQQIBBH")
ENTRY_SIZE = _ENTRY.size
_PARTIAL = 1
_CHUNK = 4096
# What one entry may stand for, so that reading an entry needs little memory.
_MOST_LINES, _MOST_BYTES = 4096, 64 << 10
# A longer line is stored in parts (moby's daemon/logger/copier.go: defaultBufSize).
_LONGEST_LINE = 16 << 10
_LINES = re.compile(rb"[^\n]*\n|[^\n]+")
_header = functools.lru_cache(4096)(stdcopy.header)


_libc = ctypes.CDLL(None, use_errno=True)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


def _punch(fd: int, start: int, end: int) -> None:
    """Make the bytes from `start` to `end` a hole with fallocate(2). A file system without holes keeps the bytes."""
    if end > start:
        _libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_long(start), ctypes.c_long(end - start))


@dataclass(frozen=True, slots=True)
class Entry:
    """Lines of one stream; with `partial` the last line ends in a later entry. `time_ns`: unix time.

    `length` includes the frames' headers.
    """

    time_ns: int
    position: int
    guest_offset: int
    length: int
    stream: int
    partial: bool
    lines: int


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the log: before line `line` (from 0) of entry `entry`."""

    entry: int
    line: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """The log's new end: bytes of data, entries, and the offset in the guest's output."""

    size: int
    entries: int
    guest_offset: int

    def used(self, first: int, start: int) -> int:
        """The size of data and index from an entry on, whose data begins at `start`."""
        return self.size - start + (self.entries - first) * ENTRY_SIZE


Output = tuple[int, int, int, bytes]
"""Output of one stream: the stream, unix time in ns, the offset in the guest's output after it, and its bytes."""


class LogFile:
    """One container's log. `framed`: the data has stdcopy headers; False for a container with a terminal.

    The log has at most `pieces` pieces of `piece` bytes, data and index together; `piece` 0 means no limit. When a new piece begins,
    the oldest becomes a hole in both files. Entry numbers and positions are never reused.

    One thread at a time may append, while others read: readers use `pinned`.
    """

    def __init__(self, directory: Path, *, framed: bool, piece: int = 0, pieces: int = 1) -> None:
        self.framed = framed
        self._piece = piece
        self._pieces = pieces
        # Positions in the data that readers use now, and whether to close the files after them.
        self._pins: list[tuple[int, int]] = []
        self._closing = False
        self._data = os.open(directory / "log.data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._index = os.open(directory / "log.index", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        size = os.fstat(self._index).st_size
        self.entries = size // ENTRY_SIZE
        if size % ENTRY_SIZE:
            os.ftruncate(self._index, self.entries * ENTRY_SIZE)
        self.guest_offset = 0
        self._size = 0
        while self.entries:
            last = self.entry(self.entries - 1)
            if last.position + last.length <= os.fstat(self._data).st_size:
                self.guest_offset = last.guest_offset
                self._size = last.position + last.length
                break
            # Power was lost: the entry reached the disk, its data did not. The guest still has that output.
            self.entries -= 1
            os.ftruncate(self._index, self.entries * ENTRY_SIZE)
        os.ftruncate(self._data, self._size)
        self.first = self._find_first()
        self._start = self.entry(self.first).position if self.first < self.entries else self._size

    def fileno(self) -> int:
        """The data file's descriptor, for sendfile."""
        return self._data

    @property
    def rotates(self) -> bool:
        """Whether old entries are dropped when the log grows."""
        return self._piece > 0

    def append(self, stream: int, time_ns: int, guest_offset: int, data: bytes) -> None:
        """Append output of one stream. Its last byte is at `guest_offset` - 1 of the guest's output."""
        self.append_all([(stream, time_ns, guest_offset, data)])

    def append_all(self, outputs: Iterable[Output]) -> None:
        """Append outputs in their order."""
        self.commit(self.write(outputs))

    def write(self, outputs: Iterable[Output]) -> Written:
        """Write outputs in their order, by one write to each file. Readers see them after `commit`. Blocking."""
        out: list[bytes] = []
        index: list[bytes] = []
        position, offset = self._size, self.guest_offset
        for stream, time_ns, offset, data in outputs:
            end = offset - len(data)
            # The usual case: a line.
            is_line = data.find(b"\n", 0, -1) < 0 and len(data) <= _LONGEST_LINE
            for lines in ([data],) if is_line and data else _entries(data):
                size = sum(map(len, lines))
                end += size
                if self.framed:
                    out += [_header(stream, len(line)) + line for line in lines]
                    size += len(lines) * stdcopy.HEADER_SIZE
                else:
                    out += lines
                partial = 0 if lines[-1].endswith(b"\n") else _PARTIAL
                index.append(_ENTRY.pack(time_ns, position, end, size, stream, partial, len(lines) - 1))
                position += size
        self._write(self._data, b"".join(out), self._size)
        self._write(self._index, b"".join(index), self.entries * ENTRY_SIZE)
        written = Written(position, self.entries + len(index), offset)
        if self._piece and written.used(self.first, self._start) > self._piece * self._pieces:
            self._drop(written)
        return written

    def commit(self, written: Written) -> None:
        """Show readers what `write` has written. Does not block."""
        self._size, self.entries, self.guest_offset = written.size, written.entries, written.guest_offset

    def _find_first(self) -> int:
        """The number of the first entry that was not dropped: dropped entries read as zeros."""
        low, high = 0, self.entries
        while low < high:
            middle = (low + high) // 2
            if self.entry(middle).length:
                high = middle
            else:
                low = middle + 1
        return low

    def _drop(self, written: Written) -> None:
        """Drop the oldest piece, and more if that is not enough."""
        most = self._piece * (self._pieces - 1)
        low, high = self.first, written.entries - 1
        while low < high:
            middle = (low + high) // 2
            if written.used(middle, self.entry(middle).position) <= most:
                high = middle
            else:
                low = middle + 1
        start = self.entry(low).position
        # First announce what goes, then look at the pins: a reader pins first, then looks at what is gone.
        self.first, self._start = low, start
        # A hole reads as zeros, even where it ends inside of a block: a zero length marks a dropped entry.
        _punch(self._index, 0, low * ENTRY_SIZE)
        done = 0
        for begin, end in sorted(self._pins):
            _punch(self._data, done, min(begin, start))
            done = max(done, end)
        _punch(self._data, done, start)

    @contextmanager
    def pinned(self, start: int, end: int) -> Iterator[None]:
        """Inside the block, the data from `start` to `end` is kept and the files are open. Look at `first` after entering.

        Pins must be few and small: what they hold is dropped only with a later piece.
        """
        pin = (start, end)
        self._pins.append(pin)
        try:
            yield
        finally:
            self._pins.remove(pin)
            if self._closing and not self._pins:
                self._close()

    @staticmethod
    def _write(fd: int, data: bytes, position: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(fd, view, position)
            view = view[written:]
            position += written

    def begin_run(self, offset: int = 0) -> None:
        """A new run begins. Its output starts at offset 0, or at the checkpoint's offset when it starts from a checkpoint."""
        self.guest_offset = offset

    def sync(self) -> None:
        """fdatasync both files; blocking."""
        os.fdatasync(self._data)
        os.fdatasync(self._index)

    def entry(self, number: int) -> Entry:
        return self._unpack(os.pread(self._index, ENTRY_SIZE, number * ENTRY_SIZE), 0)

    @staticmethod
    def _unpack(data: bytes, at: int) -> Entry:
        time_ns, position, guest_offset, length, stream, flags, more = _ENTRY.unpack_from(data, at)
        return Entry(time_ns, position, guest_offset, length, stream, bool(flags & _PARTIAL), more + 1)

    def iterate(self, first: int, last: int) -> Iterator[Entry]:
        """The entries from number `first` to `last` - 1."""
        while first < last:
            count = min(_CHUNK, last - first)
            block = os.pread(self._index, count * ENTRY_SIZE, first * ENTRY_SIZE)
            for at in range(0, len(block) - ENTRY_SIZE + 1, ENTRY_SIZE):
                yield self._unpack(block, at)
            first += count

    def tail_start(self, lines: int, streams: frozenset[int], last: int) -> Place:
        """The place where the last `lines` lines of the streams before entry `last` begin."""
        if lines <= 0:
            return Place(last)
        found = 0
        number = last
        # A line that has no end yet counts. Else the end of an entry without a line feed belongs to a line that was counted.
        awaiting = True
        while number > self.first:
            low = max(self.first, number - _CHUNK)
            block = list(self.iterate(low, number))
            for back, entry in enumerate(reversed(block)):
                if entry.stream not in streams:
                    continue
                counted = entry.lines if not entry.partial or awaiting else entry.lines - 1
                awaiting = False
                if found + counted > lines:
                    # The tail begins with a whole line of this entry, or behind the entry.
                    skip = counted - (lines - found)
                    at = number - back - 1
                    return Place(at, skip) if skip < entry.lines else Place(at + 1)
                found += counted
            number = low
        return Place(self.first)

    def first_at(self, time_ns: int) -> int:
        """The number of the first entry that is not older than the time."""
        low, high = self.first, self.entries
        while low < high:
            middle = (low + high) // 2
            if self.entry(middle).time_ns < time_ns:
                low = middle + 1
            else:
                high = middle
        return low

    def number_at(self, position: int, low: int, high: int) -> int:
        """The number, from `low` to `high`, of the entry whose data is at a position or begins before it."""
        while low < high:
            middle = (low + high + 1) // 2
            if middle < self.entries and self.entry(middle).position > position:
                high = middle - 1
            else:
                low = middle
        return low

    def lines(self, entry: Entry) -> list[bytes]:
        """The lines of an entry, each with its line feed; without it, a part of a line."""
        data = os.pread(self._data, entry.length, entry.position)
        if not self.framed:
            return _LINES.findall(data) if entry.lines > 1 else [data]
        found, at = [], 0
        while at < len(data):
            begin = at + stdcopy.HEADER_SIZE
            at = begin + int.from_bytes(data[begin - 4 : begin], "big")
            found.append(data[begin:at])
        return found

    def payload(self, entry: Entry) -> bytes:
        """The output that an entry stands for."""
        return b"".join(self.lines(entry))

    def position(self, place: Place) -> int:
        """The position of a place in the data."""
        if place.entry >= self.entries:
            return self._size
        entry = self.entry(place.entry)
        if not place.line:
            return entry.position
        before = self.lines(entry)[: place.line]
        return entry.position + sum(map(len, before)) + (stdcopy.HEADER_SIZE * len(before) if self.framed else 0)

    def read(self, position: int, size: int) -> bytes:
        """Bytes of the data, as they are in the file."""
        return os.pread(self._data, size, position)

    def close(self) -> None:
        """Close the files, once no reader uses them. Idempotent."""
        self._closing = True
        if not self._pins:
            self._close()

    def _close(self) -> None:
        for fd in (self._data, self._index):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._data = self._index = -1


def _entries(data: bytes) -> Iterator[list[bytes]]:
    """The lines of an output, those of an entry at a time. The parts of a long line have entries of their own."""
    start = 0
    while start < len(data):
        stop = start + _MOST_BYTES
        # Cut between lines if there is such a place.
        stop = data.rfind(b"\n", start, stop) + 1 or stop if stop < len(data) else len(data)
        lines = _LINES.findall(data, start, stop) if data.find(b"\n", start, stop) >= 0 else [data[start:stop]]
        start = stop
        if max(map(len, lines)) > _LONGEST_LINE:
            yield from _cut(lines)
        else:
            yield from (lines[first : first + _MOST_LINES] for first in range(0, len(lines), _MOST_LINES))


def _cut(lines: list[bytes]) -> Iterator[list[bytes]]:
    whole: list[bytes] = []
    for line in lines:
        if len(line) <= _LONGEST_LINE:
            whole.append(line)
            continue
        if whole:
            yield whole
            whole = []
        yield from ([line[at : at + _LONGEST_LINE]] for at in range(0, len(line), _LONGEST_LINE))
    if whole:
        yield whole
