"""The LUN of each disk, in a machine that boots and in one with a template's slots."""

import os
from pathlib import Path

from appliance.hypervisor import Disk
from appliance.hypervisor.qemu.command import SLOT_BYTES, SLOTS
from appliance.hypervisor.qemu.slots import lengthen, luns_of


def _disks(folder: Path, count: int) -> tuple[Disk, ...]:
    """A writable disk and then layers."""
    for number in range(count):
        (folder / str(number)).write_bytes(b"x")
    return tuple(Disk(folder / str(number), number > 0) for number in range(count))


def test_a_machine_that_boots_counts(tmp_path: Path) -> None:
    assert luns_of(_disks(tmp_path, 12), slotted=False) == list(range(12))


def test_disks_fill_the_slots_first(tmp_path: Path) -> None:
    assert luns_of(_disks(tmp_path, 11), slotted=True) == [*range(8), 16, 17, 18]


def test_a_disk_that_fits_no_slot_goes_behind_them(tmp_path: Path) -> None:
    disks = _disks(tmp_path, 3)
    # The first slot is writable, the others are not.
    assert luns_of(tuple(Disk(disk.path, True) for disk in disks), slotted=True) == [SLOTS, 1, 2]
    assert luns_of(tuple(Disk(disk.path, False) for disk in disks), slotted=True) == [0, SLOTS + 1, SLOTS + 2]
    os.truncate(disks[1].path, SLOT_BYTES + 1)
    assert luns_of(disks, slotted=True) == [0, SLOTS + 1, 2]


def test_a_file_is_lengthened_to_its_slot_with_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "layer"
    path.write_bytes(b"data")
    path.chmod(0o444)
    lengthen(path)
    state = path.stat()
    assert (state.st_size, state.st_mode & 0o777) == (SLOT_BYTES, 0o444)
    assert state.st_blocks * 512 < 1 << 20
    with open(path, "rb") as file:
        assert file.read(5) == b"data\0"
