"""The bootable disk: its partition table, and the same bytes in each build."""

import struct
import subprocess
import uuid
from pathlib import Path

import pytest

from build.ova import disk
from tests.build.reproducible import different_files


def _write(folder: Path) -> Path:
    parts = {}
    for name in ("kernel", "initrd", "root"):
        parts[name] = folder / name
        parts[name].write_bytes(name.encode() * 5000)
    disk.write(parts["kernel"], parts["initrd"], parts["root"], "quiet", folder, folder / "disk")
    return folder / "disk"


def test_the_same_bytes_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert different_files(lambda folder: {"disk": _write(folder).read_bytes()}, tmp_path, monkeypatch) == []


def test_partitions(tmp_path: Path) -> None:
    path = _write(tmp_path)
    data = path.read_bytes()
    assert data[510:512] == b"\x55\xaa"
    assert data[512:520] == b"EFI PART"
    # The backup of the header is in the last sector.
    assert data[-512:-504] == b"EFI PART"
    listed = subprocess.run(["sfdisk", "--dump", str(path)], capture_output=True, text=True, check=True).stdout
    assert [line.partition("name=")[2].strip('"') for line in listed.splitlines() if "name=" in line] == [
        "bios",
        "boot",
        "root",
    ]
    _, guid, first = struct.unpack_from("<16s16sQ", data, 1024 + 2 * 128)
    assert uuid.UUID(bytes_le=guid) == disk.ROOT_PARTITION
    assert data[first * 512 :].startswith(b"rootroot")


def test_the_boot_partition_has_the_configuration(tmp_path: Path) -> None:
    path = _write(tmp_path)
    (first,) = struct.unpack_from("<Q", path.read_bytes(), 1024 + 128 + 32)
    command = ["mtype", "-i", f"{path}@@{first * 512}", "::/grub/grub.cfg"]
    config = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"linux /vmlinuz root=PARTUUID={disk.ROOT_PARTITION} quiet\n" in config
