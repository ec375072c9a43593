"""Stacks: for an image with more layers than a VM can have disks, the uppermost layers share one disk, a partition for each layer.

The partition table is GPT (UEFI 2.10, 5.3).
"""

import hashlib
import shutil
import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import Disk

T = TypeVar("T")

# A VM has at most sixty disks. Up to this many may be layers; the others are for its writable disk and its volumes.
MOST_LAYERS = 40
_SECTOR, _ALIGNMENT = 512, 1 << 20
_ENTRIES, _ENTRY, _HEADER = 128, 128, 92
_TABLE_SECTORS = _ENTRIES * _ENTRY // _SECTOR
# "Linux filesystem data".
_KIND = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
# Namespace of the GUIDs of disks and partitions (uuid5): the same layers always give the same bytes.
_NAMESPACE = uuid.UUID("6f0b7f2e-4f8e-4d55-9a77-0f2a9df2b1c4")


@dataclass(frozen=True, slots=True)
class Slot:
    """The index of a VM's disk, from 0, and the partition of that disk, from 1; partition 0 is the whole disk."""

    disk: int
    partition: int = 0


def slots_of(disks: Sequence[Disk]) -> list[Slot]:
    """The slot of each disk of a spec."""
    stacked = set(uppermost([number for number, disk in enumerate(disks) if disk.read_only]))
    slots: list[Slot] = []
    number, place, partitions = 0, -1, 0
    for index in range(len(disks)):
        if index not in stacked:
            slots.append(Slot(number))
            number += 1
            continue
        if place < 0:
            place = number
            number += 1
        partitions += 1
        slots.append(Slot(place, partitions))
    return slots


def uppermost(layers: Sequence[T]) -> Sequence[T]:
    """The layers of an image, lowest first, that share a disk; none when the image has few layers."""
    return layers[MOST_LAYERS - 1 :] if len(layers) > MOST_LAYERS else []


def name_of_stack(layers: Sequence[Path]) -> str:
    """The name of the disk that these layers share. The same layers always give the same name."""
    return "stack-" + hashlib.sha256("\n".join(path.stem for path in layers).encode()).hexdigest()[:40]


def size_of_stack(layers: Sequence[Path]) -> int:
    """The size of that disk in bytes. HypervisorError when there are too many layers."""
    if len(layers) > _ENTRIES:
        raise HypervisorError(f"an image has at most {MOST_LAYERS - 1 + _ENTRIES} layers")
    return sum(_aligned(path.stat().st_size) for path in layers) + 2 * _ALIGNMENT


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def write_stack(layers: Sequence[Path], out: BinaryIO) -> None:
    """Write that disk into a new file."""
    total = size_of_stack(layers)
    name = name_of_stack(layers)
    entries = bytearray()
    at = _ALIGNMENT
    for path in layers:
        size = path.stat().st_size
        out.seek(at)
        with open(path, "rb") as source:
            shutil.copyfileobj(source, out, 1 << 20)
        own = uuid.uuid5(_NAMESPACE, f"{name}/{path.stem}")
        last = (at + _aligned(size)) // _SECTOR - 1
        entries += struct.pack("<16s16sQQQ72s", _KIND.bytes_le, own.bytes_le, at // _SECTOR, last, 0, b"")
        at += _aligned(size)
    entries += bytes(_ENTRIES * _ENTRY - len(entries))
    last = total // _SECTOR - 1
    disk = uuid.uuid5(_NAMESPACE, name).bytes_le
    out.truncate(total)
    out.seek(0)
    # The protective MBR: software without GPT support sees a full disk (5.2.3).
    out.write(
        bytes(446)
        + struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff" * 3, 1, min(last, 0xFFFFFFFF))
        + bytes(48)
        + b"\x55\xaa"
    )
    out.write(_header(1, last, 2, disk, bytes(entries), last).ljust(_SECTOR, b"\0") + entries)
    out.seek(total - (_TABLE_SECTORS + 1) * _SECTOR)
    out.write(entries + _header(last, 1, last - _TABLE_SECTORS, disk, bytes(entries), last).ljust(_SECTOR, b"\0"))


def _header(own: int, other: int, table: int, disk: bytes, entries: bytes, last: int) -> bytes:
    def pack(checksum: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART",
            0x00010000,
            _HEADER,
            checksum,
            0,
            own,
            other,
            2 + _TABLE_SECTORS,
            last - _TABLE_SECTORS - 1,
            disk,
            table,
            _ENTRIES,
            _ENTRY,
            zlib.crc32(entries),
        )

    return pack(zlib.crc32(pack(0)))
