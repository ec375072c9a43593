"""Disks that a running VM gets and gives away: places and changes, as vSphere's calls take them. Pure.

A disk in `MachineSpec.more_disks` has a unit after those of `MachineSpec.disks`, by its index. Each of these disks is a disk of the VM:
only disks that a VM is created with share a stack.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pyVmomi import vim

from appliance.hypervisor.driver import Disk, MachineSpec, ScsiAddress
from appliance.hypervisor.vsphere.spec import (
    ADAPTER_KEY,
    ADAPTERS,
    UNITS,
    PlacedDisk,
    added_disk,
    address_of,
    change_devices,
    removed,
)
from appliance.hypervisor.vsphere.stacks import slots_of


def _first_place(spec: MachineSpec) -> int:
    """The number of the VM's disks that hold `spec.disks`."""
    return max((slot.disk + 1 for slot in slots_of(spec.disks)), default=0)


def most_places(spec: MachineSpec) -> int:
    """How many disks `more_disks` can have. Without `grows` a VM has the adapters of its first disks only."""
    first = _first_place(spec)
    adapters = ADAPTERS if spec.grows else -(-first // UNITS)
    return adapters * UNITS - first


def address_of_place(spec: MachineSpec, place: int) -> ScsiAddress:
    """Where the guest finds the disk in this place of `more_disks`."""
    return address_of(_first_place(spec) + place)


@dataclass(frozen=True, slots=True)
class VmDisk:
    """A disk of a VM. The file of a read-only disk is a child in the VM's folder, which no other VM has."""

    address: ScsiAddress
    read_only: bool


def vm_disks(spec: MachineSpec, first: Collection[int], more: Collection[int]) -> list[VmDisk]:
    """The VM's disks that hold only these places of `disks` and `more_disks`. A stack stays while the VM needs one of its layers."""
    slots = [slot.disk for slot in slots_of(spec.disks)]
    needed = {slots[index] for index, disk in enumerate(spec.disks) if index not in first and not disk.released}
    unused = {slots[index]: spec.disks[index].read_only for index in first if slots[index] not in needed}
    found = [VmDisk(address_of(place), read_only) for place, read_only in unused.items()]
    for place in more:
        disk = spec.more_disks[place]
        found.append(VmDisk(address_of_place(spec, place), disk is not None and disk.read_only))
    return found


def disk_at(devices: Sequence[vim.vm.device.VirtualDevice], address: ScsiAddress) -> vim.vm.device.VirtualDisk | None:
    """The disk at this address among a VM's devices."""
    place = (ADAPTER_KEY + address.adapter, address.target)
    disks = (device for device in devices if isinstance(device, vim.vm.device.VirtualDisk))
    return next((disk for disk in disks if (disk.controllerKey, disk.unitNumber) == place), None)


def plugging_disks(
    spec: MachineSpec, serial: str, places: Sequence[int], disks: Sequence[PlacedDisk]
) -> vim.vm.ConfigSpec:
    """A change that adds these disks in these places. `spec` is the machine's spec after the change."""
    first = _first_place(spec)
    # For keys below zero the server chooses the real keys.
    added = [added_disk(first + place, disk, -1 - place) for place, disk in zip(places, disks, strict=True)]
    return change_devices(spec, serial, added)


def releasing_disks(
    spec: MachineSpec, serial: str, devices: Sequence[vim.vm.device.VirtualDevice], disks: Sequence[VmDisk]
) -> vim.vm.ConfigSpec:
    """A change that removes these disks, as far as they are among a VM's devices. `spec` is the machine's spec after the change.

    The files of writable disks stay.
    """
    changes = []
    for disk in disks:
        if (device := disk_at(devices, disk.address)) is not None:
            changes.append(removed(device, destroy=disk.read_only))
    return change_devices(spec, serial, changes)


def writable(spec: MachineSpec) -> list[Disk]:
    """The writable disks that a machine has now."""
    return [disk for disk in (*spec.disks, *spec.more_disks) if disk and not disk.read_only and not disk.released]
