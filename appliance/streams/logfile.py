"""A container's log on disk: `log.data`, already framed for the wire, and `log.index`, one entry of fixed size per line.

An entry holds the time, the stream, the position in the data file, and the offset in the guest's output that it reaches. After a crash,
vchd continues to read the guest's output at the offset of the last entry. Data is written before its entry, so data exists for every
entry; bytes after the last entry are cut off when the log is opened.

Entry, little endian: time ns u64, position u64, guest offset after it u64, length u32 (frame header included), stream u8,
flags u8 (1: the line continues in the next entry of the stream), 2 zero bytes.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.streams import stdcopy

_ENTRY = struct.Struct("<QQQIBBxx")
ENTRY_SIZE = _ENTRY.size
_PARTIAL = 1
_CHUNK = 4096


_libc = ctypes.CDLL(None, use_errno=True)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


def _punch(fd: int, end: int) -> None:
    """Make the bytes before `end` a hole with fallocate(2). A file system without holes keeps the bytes."""
    if end:
        _libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_long(0), ctypes.c_long(end))


@dataclass(frozen=True, slots=True)
class Entry:
    """A line, or a part of one. `time_ns`: unix time. `length` includes the frame's header."""

    time_ns: int
    position: int
    guest_offset: int
    length: int
    stream: int
    partial: bool


class LogFile:
    """One container's log. `framed`: the data has stdcopy headers; False for a container with a terminal.

    The log has at most `pieces` pieces of `piece` bytes; `piece` 0 means no limit. When a new piece begins, the oldest becomes a hole in
    both files. Entry numbers and positions are never reused.
    """

    def __init__(self, directory: Path, *, framed: bool, piece: int = 0, pieces: int = 1) -> None:
        self.framed = framed
        self._piece = piece
        self._pieces = pieces
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
    def size(self) -> int:
        return self._size

    def append(self, stream: int, time_ns: int, guest_offset: int, data: bytes) -> None:
        """Append output of one stream. Its last byte is at `guest_offset` - 1 of the guest's output."""
        out: list[bytes] = []
        index: list[bytes] = []
        position = self._size
        start = 0
        end = len(data)
        offset = guest_offset - end
        while start < end:
            stop = data.find(b"\n", start) + 1 or end
            line = data[start:stop]
            if self.framed:
                out.append(stdcopy.header(stream, stop - start))
            out.append(line)
            length = stop - start + (stdcopy.HEADER_SIZE if self.framed else 0)
            partial = 0 if line.endswith(b"\n") else _PARTIAL
            index.append(_ENTRY.pack(time_ns, position, offset + stop, length, stream, partial))
            position += length
            start = stop
        self._write(self._data, b"".join(out), self._size)
        self._write(self._index, b"".join(index), self.entries * ENTRY_SIZE)
        self._size = position
        self.entries += len(index)
        self.guest_offset = guest_offset
        if self._piece and self._size - self._start > self._piece * self._pieces:
            self._drop()

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

    def _drop(self) -> None:
        """Drop the oldest piece, and more if that is not enough."""
        most = self._piece * (self._pieces - 1)
        low, high = self.first, self.entries - 1
        while low < high:
            middle = (low + high) // 2
            if self._size - self.entry(middle).position <= most:
                high = middle
            else:
                low = middle + 1
        start = self.entry(low).position
        # A hole reads as zeros, even where it ends inside of a block: a zero length marks a dropped entry.
        _punch(self._index, low * ENTRY_SIZE)
        _punch(self._data, start)
        self.first, self._start = low, start

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
        time_ns, position, guest_offset, length, stream, flags = _ENTRY.unpack_from(data, at)
        return Entry(time_ns, position, guest_offset, length, stream, bool(flags & _PARTIAL))

    def iterate(self, first: int, last: int) -> Iterator[Entry]:
        """The entries from number `first` to `last` - 1."""
        while first < last:
            count = min(_CHUNK, last - first)
            block = os.pread(self._index, count * ENTRY_SIZE, first * ENTRY_SIZE)
            for at in range(0, len(block) - ENTRY_SIZE + 1, ENTRY_SIZE):
                yield self._unpack(block, at)
            first += count

    def tail_start(self, lines: int, streams: frozenset[int], last: int) -> int:
        """The number of the entry where the last `lines` lines of the streams before entry `last` begin."""
        if lines <= 0:
            return last
        found = 0
        number = last
        # The last entry of a line is not partial; the entries before it are partial and of the same stream.
        awaiting = True
        while number > self.first:
            low = max(self.first, number - _CHUNK)
            block = list(self.iterate(low, number))
            for back, entry in enumerate(reversed(block)):
                if entry.stream not in streams:
                    continue
                if not entry.partial or awaiting:
                    if found == lines:
                        return number - back
                    found += 1
                awaiting = False
            number = low
        return self.first

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

    def payload(self, entry: Entry) -> bytes:
        skip = stdcopy.HEADER_SIZE if self.framed else 0
        return os.pread(self._data, entry.length - skip, entry.position + skip)

    def read(self, position: int, size: int) -> bytes:
        return os.pread(self._data, size, position)

    def close(self) -> None:
        os.close(self._data)
        os.close(self._index)
