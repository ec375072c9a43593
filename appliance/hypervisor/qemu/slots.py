"""The LUN of each disk: a slot, which a template's guest knows already, or a LUN after the slots."""

import os
import stat
from pathlib import Path

from appliance.hypervisor.driver import Disk
from appliance.hypervisor.qemu.command import SLOT_BYTES, SLOTS, slot_is_read_only


def luns_of(disks: tuple[Disk, ...], *, slotted: bool) -> list[int]:
    """The LUN of each disk. In a machine with slots, a disk that does not fit its slot gets a LUN after the slots."""
    if not slotted:
        return list(range(len(disks)))
    return [lun if _fits(lun, disk) else SLOTS + lun for lun, disk in enumerate(disks)]


def _fits(lun: int, disk: Disk) -> bool:
    if lun >= SLOTS or disk.read_only != slot_is_read_only(lun):
        return False
    try:
        return disk.path.stat().st_size <= SLOT_BYTES
    except OSError:
        return True  # opening the file will fail, with the error


def lengthen(path: Path) -> None:
    """Extend a file to the size of a slot, with a hole."""
    state = path.stat()
    if state.st_size >= SLOT_BYTES:
        return
    if not state.st_mode & stat.S_IWUSR:
        # A layer is read-only, and only root may truncate it nevertheless.
        path.chmod(state.st_mode | stat.S_IWUSR)
    os.truncate(path, SLOT_BYTES)
    path.chmod(state.st_mode)
