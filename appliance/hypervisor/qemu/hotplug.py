"""Disks and shares of a running machine, through its monitor. NICs are in `nics`."""

import os
from pathlib import Path

from appliance.hypervisor.driver import Disk, Share
from appliance.hypervisor.qemu.command import (
    backing_node,
    disk_device,
    disk_node,
    file_node,
    share_chardev,
    share_device,
)
from appliance.hypervisor.qemu.monitor import Monitor
from appliance.hypervisor.qemu.shares import serve
from appliance.hypervisor.qemu.slots import lengthen


async def fill_slot(monitor: Monitor, lun: int, disk: Disk) -> None:
    """Put a disk's file behind a slot that the guest knows already."""
    lengthen(disk.path)
    backing = await _add_file(monitor, lun, disk, 1)
    node = disk_node(lun, backing, disk.read_only, in_slot=True)
    await monitor.execute("blockdev-reopen", {"options": [node]})


async def plug_disk(monitor: Monitor, lun: int, disk: Disk) -> None:
    """Add a disk as a new device."""
    backing = await _add_file(monitor, lun, disk, 0)
    await monitor.execute("blockdev-add", disk_node(lun, backing, disk.read_only, in_slot=False))
    await monitor.execute("device_add", disk_device(lun))


async def _add_file(monitor: Monitor, lun: int, disk: Disk, generation: int) -> str:
    """Give QEMU the file of a disk; return the name of the block node."""
    fd = os.open(disk.path, (os.O_RDONLY if disk.read_only else os.O_RDWR) | os.O_CLOEXEC)
    try:
        await monitor.execute("add-fd", {"fdset-id": lun + 1}, fd=fd)
    finally:
        os.close(fd)
    node = backing_node(lun, file_node(lun), disk.read_only, generation)
    await monitor.execute("blockdev-add", node)
    return str(node["node-name"])


async def plug_shares(monitor: Monitor, folder: Path, shares: tuple[Share, ...]) -> None:
    """Start virtiofsd in the machine's folder and add its device."""
    with serve(folder, shares) as virtiofsd:
        await monitor.execute("getfd", {"fdname": "shares"}, fd=virtiofsd.fileno())
    await monitor.execute("chardev-add", share_chardev("shares"))
    await monitor.execute("device_add", share_device())
