"""Writes a disk image that boots by BIOS and by UEFI, without loop devices, mounts or the rights of root.

The GPT has three partitions: GRUB's core image for BIOS; a FAT file system with GRUB for UEFI, the kernel and the initrd; the root.
"""

import binascii
import os
import shutil
import struct
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

_SECTOR = 512
_MIB = 1 << 20
_ENTRIES, _ENTRY = 128, 128
_BIOS_BOOT = uuid.UUID("21686148-6449-6E6F-744E-656564454649")
_ESP = uuid.UUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
# The type of an x86-64 root partition (Discoverable Partitions Specification).
_ROOT = uuid.UUID("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709")
# The namespace of the partitions' ids, which are the same in each build.
_NAMES = uuid.UUID("6a0f6f5e-55a5-4f0e-9d0f-0f6d0c5b8a51")
ROOT_PARTITION = uuid.uuid5(_NAMES, "root")
_BIOS_MODULES = ("biosdisk", "part_gpt", "fat", "normal", "linux", "configfile", "all_video", "test")
_EFI_MODULES = ("part_gpt", "fat", "normal", "linux", "configfile", "all_video", "test")
_GRUB = "/usr/lib/grub"
# The time of all files, 2025-01-01. FAT cannot represent times before 1980.
EPOCH, TIME = "1735689600", "2025-01-01 00:00:00"


@dataclass(frozen=True, slots=True)
class _Partition:
    name: str
    kind: uuid.UUID
    first: int  # sector
    sectors: int

    def entry(self) -> bytes:
        name = self.name.encode("utf-16-le").ljust(72, b"\0")
        guid = uuid.uuid5(_NAMES, self.name)
        return (
            struct.pack("<16s16sQQQ", self.kind.bytes_le, guid.bytes_le, self.first, self.first + self.sectors - 1, 0)
            + name
        )


def write(kernel: Path, initrd: Path, root: Path, options: str, work: Path, target: Path) -> None:
    """Write the disk image. `options` are further parameters of the kernel. Needs GRUB's tools, mtools and faketime."""
    config = work / "grub.cfg"
    config.write_text(f"set timeout=0\nlinux /vmlinuz root=PARTUUID={ROOT_PARTITION} {options}\ninitrd /initrd\nboot\n")
    core = _image("i386-pc", _BIOS_MODULES, work / "core.img")
    efi = _image("x86_64-efi", _EFI_MODULES, work / "bootx64.efi")
    boot = work / "boot.fat"
    _write_fat(boot, {"/vmlinuz": kernel, "/initrd": initrd, "/grub/grub.cfg": config, "/EFI/BOOT/BOOTX64.EFI": efi})
    partitions = []
    first = _MIB // _SECTOR
    for name, kind, file in (("bios", _BIOS_BOOT, core), ("boot", _ESP, boot), ("root", _ROOT, root)):
        sectors = -(-file.stat().st_size // _MIB) * _MIB // _SECTOR
        partitions.append((_Partition(name, kind, first, sectors), file))
        first += sectors
    size = first + _MIB // _SECTOR
    with target.open("w+b") as disk:
        disk.truncate(size * _SECTOR)
        _write_table(disk.fileno(), size, [partition for partition, _ in partitions])
        for partition, file in partitions:
            disk.seek(partition.first * _SECTOR)
            with file.open("rb") as content:
                shutil.copyfileobj(content, disk, _MIB)
        disk.flush()
        _install_bios(disk.fileno(), partitions[0][0].first, core.stat().st_size)


def _image(kind: str, modules: tuple[str, ...], target: Path) -> Path:
    """GRUB for a kind of firmware. GRUB reads its configuration from the FAT file system of the disk it was started from."""
    prefix = "(,gpt2)/grub" if kind == "i386-pc" else "/grub"
    subprocess.run(["grub-mkimage", "-O", kind, "-o", str(target), "-p", prefix, *modules], check=True)
    return target


def _write_fat(target: Path, files: dict[str, Path]) -> None:
    """A FAT file system with these files, and room for the larger ones of a later version."""
    size = -(-sum(file.stat().st_size for file in files.values()) * 5 // 4 // _MIB) + 36
    environment = {"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": EPOCH, "MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}

    def mtools(*command: str) -> None:
        # mtools takes the times of folders from the clock.
        subprocess.run(["faketime", "-f", TIME, *command], check=True, env=environment)

    target.write_bytes(b"")
    with target.open("r+b") as file:
        file.truncate(size * _MIB)
    mtools("mformat", "-i", str(target), "-F", "-N", "56434821", "-v", "VCHBOOT", "::")
    made: set[str] = set()
    for path, source in files.items():
        parts = path.strip("/").split("/")[:-1]
        for depth in range(len(parts)):
            folder = "/".join(parts[: depth + 1])
            if folder not in made:
                mtools("mmd", "-i", str(target), f"::{folder}")
                made.add(folder)
        mtools("mcopy", "-m", "-i", str(target), str(source), f"::{path}")


def _write_table(disk: int, size: int, partitions: list[_Partition]) -> None:
    """Write the GUID partition table and its backup (UEFI 2.10, chapter 5), and the protective MBR."""
    entries = b"".join(partition.entry() for partition in partitions).ljust(_ENTRIES * _ENTRY, b"\0")
    table_sectors = len(entries) // _SECTOR
    identity = uuid.uuid5(_NAMES, "disk")

    def header(own: int, other: int, table: int) -> bytes:
        fields = (
            own,
            other,
            2 + table_sectors,
            size - table_sectors - 2,
            identity.bytes_le,
            table,
            _ENTRIES,
            _ENTRY,
            binascii.crc32(entries),
        )
        empty = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, *fields)
        return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, binascii.crc32(empty), 0, *fields)

    last = size - 1
    protective = struct.pack(
        "<446xB3sB3sII48x2s", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF), b"\x55\xaa"
    )
    os.pwrite(disk, protective, 0)
    os.pwrite(disk, header(1, last, 2), _SECTOR)
    os.pwrite(disk, entries, 2 * _SECTOR)
    os.pwrite(disk, entries, (last - table_sectors) * _SECTOR)
    os.pwrite(disk, header(last, 1, last - table_sectors), last * _SECTOR)


def _install_bios(disk: int, first: int, size: int) -> None:
    """Write GRUB's boot sector into the MBR, and the places of the core image into both, as grub-bios-setup does (grub/i386/pc/boot.h).

    The BIOS loads the boot sector, which loads the first sector of the core image, which loads the rest.
    """
    start = bytearray(Path(_GRUB, "i386-pc/boot.img").read_bytes())
    table = os.pread(disk, _SECTOR, 0)
    struct.pack_into("<Q", start, 0x5C, first)
    # Overwrite the jump to the floppy code: some BIOSes report a wrong boot drive (grub-bios-setup does the same for hard disks).
    start[0x66:0x68] = b"\x90\x90"
    start[0x1B8:0x200] = table[0x1B8:0x200]
    os.pwrite(disk, start, 0)
    # The block list at the end of the core's first sector: the second sector, the number of sectors, their segment in memory.
    os.pwrite(disk, struct.pack("<QHH", first + 1, -(-size // _SECTOR) - 1, 0x820), first * _SECTOR + 0x1F4)
