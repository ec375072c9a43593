"""Writes the streamOptimized form of VMware's Virtual Disk Format 5.0, which ESXi expects in an OVA.

qemu-img leaves out the footer and the end-of-stream marker, and ESXi refuses such a file.
"""

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SECTOR = 512
_GRAIN = 128  # sectors
_ENTRIES = 512  # of a grain table
_OVERHEAD = 128  # sectors before the first grain
_DESCRIPTOR, _DESCRIPTOR_SECTORS = 1, 20
_AT_END = 0xFFFFFFFFFFFFFFFF
# Valid newline test, compressed grains, markers.
_FLAGS = 1 | 1 << 16 | 1 << 17
_DEFLATE = 1
_GRAIN_TABLE, _GRAIN_DIRECTORY, _FOOTER = 1, 2, 3
_HEADS, _SECTORS = 255, 63


def write(source: Path, target: BinaryIO, content: int) -> tuple[int, int]:
    """Write the raw disk `source` without its grains of zeros. Returns the bytes written, and the bytes of the grains in the file.

    `content` is the content id (CID). ValueError when the size of the disk is not a multiple of the grain size.
    """
    size = source.stat().st_size
    if size % (_GRAIN * SECTOR):
        raise ValueError(f"a disk of {size} bytes is not a whole number of grains")
    capacity = size // SECTOR
    out = _Out(target)
    out.write(_header(capacity, _AT_END))
    out.write(_descriptor(capacity, content))
    out.fill(_OVERHEAD)
    directory = []
    grains = 0
    for table in _tables(source):
        if not any(table):
            directory.append(0)
            continue
        places = [0] * _ENTRIES
        for index, grain in enumerate(table):
            if grain:
                places[index] = out.sector
                grains += 1
                lba = (len(directory) * _ENTRIES + index) * _GRAIN
                packed = zlib.compress(grain, 6)
                out.write(struct.pack("<QI", lba, len(packed)) + packed)
        out.write(_marker(_ENTRIES * 4 // SECTOR, _GRAIN_TABLE))
        directory.append(out.sector)
        out.write(struct.pack(f"<{_ENTRIES}I", *places))
    packed = struct.pack(f"<{len(directory)}I", *directory)
    out.write(_marker(-(-len(packed) // SECTOR), _GRAIN_DIRECTORY))
    place = out.sector
    out.write(packed)
    out.write(_marker(1, _FOOTER))
    out.write(_header(capacity, place))
    out.write(bytes(SECTOR))  # end of stream
    return out.sector * SECTOR, grains * _GRAIN * SECTOR


class _Out:
    """A file that is written in whole sectors."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sector = 0

    def write(self, data: bytes) -> None:
        padded = data + bytes(-len(data) % SECTOR)
        self._file.write(padded)
        self.sector += len(padded) // SECTOR

    def fill(self, until: int) -> None:
        self.write(bytes((until - self.sector) * SECTOR))


def _tables(source: Path) -> Iterator[list[bytes]]:
    """The grains by grain table; empty bytes stand for a grain of zeros. Holes of a sparse file are not read."""
    zeros = bytes(_GRAIN * SECTOR)
    with source.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for place in range(0, size, _ENTRIES * len(zeros)):
            table: list[bytes] = []
            if _next_data(file.fileno(), place) < place + _ENTRIES * len(zeros):
                file.seek(place)
                while len(table) < _ENTRIES and (grain := file.read(len(zeros))):
                    table.append(b"" if grain == zeros else grain)
            yield table


def _next_data(file: int, place: int) -> int:
    try:
        return os.lseek(file, place, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return 1 << 62


def _header(capacity: int, directory: int) -> bytes:
    return struct.pack(
        "<4sIIQQQQIQQQBccccH433x",
        b"KDMV",
        3,
        _FLAGS,
        capacity,
        _GRAIN,
        _DESCRIPTOR,
        _DESCRIPTOR_SECTORS,
        _ENTRIES,
        0,
        directory,
        _OVERHEAD,
        0,
        b"\n",
        b" ",
        b"\r",
        b"\n",
        _DEFLATE,
    )


def _marker(sectors: int, kind: int) -> bytes:
    return struct.pack("<QII496x", sectors, 0, kind)


def _descriptor(capacity: int, content: int) -> bytes:
    lines = (
        "# Disk DescriptorFile",
        "version=1",
        f"CID={content & 0xFFFFFFFE:08x}",
        "parentCID=ffffffff",
        'createType="streamOptimized"',
        "",
        "# Extent description",
        f'RDONLY {capacity} SPARSE "disk.vmdk"',
        "",
        "# The Disk Data Base",
        "#DDB",
        "",
        'ddb.adapterType = "lsilogic"',
        f'ddb.geometry.cylinders = "{max(1, capacity // (_HEADS * _SECTORS))}"',
        f'ddb.geometry.heads = "{_HEADS}"',
        f'ddb.geometry.sectors = "{_SECTORS}"',
        'ddb.virtualHWVersion = "13"',
        "",
    )
    return "\n".join(lines).encode().ljust(_DESCRIPTOR_SECTORS * SECTOR, b"\0")
