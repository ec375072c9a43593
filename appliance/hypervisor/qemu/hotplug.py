"""Disks and shares of a running machine, through its monitor. NICs are in `nics`."""

import os
from collections.abc import Sequence
from pathlib import Path

import trio

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import Disk, Share
from appliance.hypervisor.qemu.command import (
    SLOT_BYTES,
    SLOTS,
    DiskPlace,
    Node,
    backing_node,
    disk_device,
    disk_node,
    empty_node,
    file_node,
    share_chardev,
    share_device,
    slot_is_read_only,
)
from appliance.hypervisor.qemu.monitor import Monitor
from appliance.hypervisor.qemu.shares import serve
from appliance.hypervisor.qemu.slots import lengthen

# How long QEMU may take to let go of a disk, after the guest has unmounted the disk.
_UNPLUG_SECONDS = 10.0
_GLANCE_SECONDS = 0.01
_AT_ONCE = 32


async def fill_slot(monitor: Monitor, lun: int, disk: Disk) -> None:
    """Put a disk's file behind a slot that the guest knows already."""
    lengthen(disk.path)
    place = DiskPlace(lun)
    backing = await _add_file(monitor, place, disk, 1)
    await _reopen(monitor, disk_node(place, backing, disk.read_only, in_slot=True))


async def _reopen(monitor: Monitor, node: Node) -> None:
    await monitor.execute("blockdev-reopen", {"options": [node]})


async def plug_disk(monitor: Monitor, place: DiskPlace, disk: Disk) -> None:
    """Add a disk as a new device."""
    backing = await _add_file(monitor, place, disk, 0)
    await monitor.execute("blockdev-add", disk_node(place, backing, disk.read_only, in_slot=False))
    await monitor.execute("device_add", disk_device(place))


async def _add_file(monitor: Monitor, place: DiskPlace, disk: Disk, generation: int) -> str:
    """Give QEMU the file of a disk; return the name of the block node."""
    fd = os.open(disk.path, (os.O_RDONLY if disk.read_only else os.O_RDWR) | os.O_CLOEXEC)
    try:
        await monitor.execute("add-fd", {"fdset-id": place.descriptors}, fd=fd)
    finally:
        os.close(fd)
    node = backing_node(place, file_node(place), disk.read_only, generation)
    await monitor.execute("blockdev-add", node)
    return str(node["node-name"])


# -- disks that leave a running machine ---------------------------------------------------------------------------------


async def unplug_disks(monitor: Monitor, places: Sequence[DiskPlace]) -> None:
    """Remove disks of `later` places with their devices. What QEMU does not have is no error."""
    # QEMU frees a device some 70 ms after its end, so the ends of many overlap. The monitor keeps fewer events than there may be disks.
    for first in range(0, len(places), _AT_ONCE):
        some = places[first : first + _AT_ONCE]
        ending = [place for place in some if await _removed(monitor, "device_del", {"id": place.name})]
        for place in ending:
            with trio.move_on_after(_UNPLUG_SECONDS) as patience:
                await monitor.wait_event("DEVICE_DELETED", place.name)
            if patience.cancelled_caught:
                raise HypervisorError(f"QEMU does not release the disk {place.name}")
        for place in some:
            await _drop_node(monitor, place.name)
            await _drop_node(monitor, f"{place.name}-0")
            await _removed(monitor, "remove-fd", {"fdset-id": place.descriptors})


async def empty_place(monitor: Monitor, place: DiskPlace, disk: Disk, *, slotted: bool) -> None:
    """Take the file from a disk that the machine started with. The guest keeps an empty disk, because the device has no id."""
    in_slot = slotted and place.lun < SLOTS
    read_only = slot_is_read_only(place.lun) if in_slot else disk.read_only
    node = backing_node(place, empty_node(SLOT_BYTES if in_slot else _size_of(disk.path)), read_only, "empty")
    try:
        await monitor.execute("blockdev-add", node)
    except HypervisorError as error:
        # An earlier attempt may have come this far.
        if "Duplicate nodes" not in str(error):
            raise
    await _reopen(monitor, disk_node(place, str(node["node-name"]), read_only, in_slot=in_slot))
    # The generation is 0 for a file of the start, 1 for a file that filled a slot later.
    for generation in (0, 1):
        await _drop_node(monitor, f"{place.name}-{generation}")
    await _removed(monitor, "remove-fd", {"fdset-id": place.descriptors})


def _size_of(path: Path) -> int:
    try:
        return -(-path.stat().st_size // 512) * 512
    except OSError:
        return SLOT_BYTES


async def _drop_node(monitor: Monitor, name: str) -> None:
    """Remove a block node. The end of a device frees its node only some moments after the event of that end."""
    deadline = trio.current_time() + _UNPLUG_SECONDS
    while True:
        try:
            await _removed(monitor, "blockdev-del", {"node-name": name})
            return
        except HypervisorError:
            if trio.current_time() > deadline:
                raise
        await trio.sleep(_GLANCE_SECONDS)


async def _removed(monitor: Monitor, command: str, arguments: Node) -> bool:
    """Run a command that removes something. False when QEMU does not have it."""
    try:
        await monitor.execute(command, arguments)
    except HypervisorError as error:
        # QEMU says "Device 'x' not found", "Failed to find node with node-name='x'", "File descriptor named 'x' not found".
        if "not found" in str(error) or "Failed to find" in str(error):
            return False
        raise
    return True


# -- shares -------------------------------------------------------------------------------------------------------------


async def plug_shares(monitor: Monitor, folder: Path, shares: tuple[Share, ...], number: int = 0) -> None:
    """Start a virtiofsd in the machine's folder and add its device. The virtiofsd of a device that QEMU refuses ends."""
    with serve(folder, shares) as virtiofsd:
        await monitor.execute("getfd", {"fdname": "shares"}, fd=virtiofsd.fileno())
    chardev = share_chardev("shares", number)
    await monitor.execute("chardev-add", chardev)
    try:
        await monitor.execute("device_add", share_device(number))
    except HypervisorError:
        await monitor.execute("chardev-remove", {"id": chardev["id"]})
        raise
