"""Disks that are files of this host."""

import struct
from pathlib import Path

from appliance.hypervisor import SCRATCH, VOLUME_OPTIONS, DiskKind, LocalDisks


def _is_ext4(path: Path) -> bool:
    """The superblock's magic number, at 0x438."""
    with open(path, "rb") as file:
        file.seek(0x438)
        return bool(struct.unpack("<H", file.read(2))[0] == 0xEF53)


async def test_a_containers_disk_is_a_sparse_copy(tmp_path: Path) -> None:
    disks = LocalDisks(tmp_path)
    await disks.prepare()
    await disks.prepare()
    path = tmp_path / "upper"
    await disks.create(path, SCRATCH)
    assert path.stat().st_size == SCRATCH.size
    assert 0 < await disks.used(path) < 16 << 20
    assert _is_ext4(path)


async def test_a_volume_has_its_own_size(tmp_path: Path) -> None:
    disks = LocalDisks(tmp_path)
    path = tmp_path / "volume.disk"
    await disks.create(path, DiskKind(64 << 20, VOLUME_OPTIONS))
    assert path.stat().st_size == 64 << 20
    assert _is_ext4(path)
    await disks.remove(path)
    await disks.remove(path)
    assert await disks.used(path) == 0
