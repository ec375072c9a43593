"""Where disks go: behind the slots that a template's guest knows already, or plugged in beside them."""

import os
import stat
from pathlib import Path

from appliance.hypervisor.driver import Disk
from appliance.hypervisor.qemu.command import SLOT_BYTES, SLOTS, slot_is_read_only


def luns_of(disks: tuple[Disk, ...], *, slotted: bool) -> list[int]:
    """The LUN of each disk. One that fits no slot of a slotted machine gets a LUN behind them."""
    if not slotted:
        return list(range(len(disks)))
    return [lun if _fits(lun, disk) else SLOTS + lun for lun, disk in enumerate(disks)]


def _fits(lun: int, disk: Disk) -> bool:
    if lun >= SLOTS or disk.read_only != slot_is_read_only(lun):
        return False
    try:
        return disk.path.stat().st_size <= SLOT_BYTES
    except OSError:
        return True  # what is not there is said when it is opened


def lengthen(path: Path) -> None:
    """Behind a slot there is a file of its size. What is added is a hole."""
    state = path.stat()
    if state.st_size >= SLOT_BYTES:
        return
    if not state.st_mode & stat.S_IWUSR:
        # A layer is nobody's to write, and only root does not mind.
        path.chmod(state.st_mode | stat.S_IWUSR)
    os.truncate(path, SLOT_BYTES)
    path.chmod(state.st_mode)
