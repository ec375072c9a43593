"""The places of disks that a machine takes while it runs (`MachineSpec.more_disks`). Pure, for all drivers.

A disk keeps its place, so that the guest's address of the disk follows from the place. A place that is free again is used again.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import RELEASED, Disk, MachineSpec


def used_places(spec: MachineSpec) -> int:
    """The number of disks that were plugged in and not released."""
    return sum(disk is not None for disk in spec.more_disks)


def with_disks(spec: MachineSpec, disks: Sequence[Disk], most: int) -> tuple[MachineSpec, list[int]]:
    """The spec with these disks in free places, and the index of each disk's place. A machine has `most` places.

    HypervisorError when there are too few places, or when the machine has one of the writable disks already.
    """
    free = most - used_places(spec)
    if len(disks) > free:
        raise HypervisorError(f"the machine has places for {free} more disks, and {len(disks)} are needed")
    present = {disk.path for disk in (*spec.disks, *spec.more_disks) if disk is not None}
    for disk in disks:
        if not disk.read_only and disk.path in present:
            # Two file systems on one writable disk would destroy the disk's content.
            raise HypervisorError(f"the machine has the disk {disk.path} already")
    places = list(spec.more_disks)
    indices: list[int] = []
    for disk in disks:
        if None not in places:
            places.append(None)
        index = places.index(None)
        places[index] = disk
        indices.append(index)
    return replace(spec, more_disks=tuple(places)), indices


def without_places(spec: MachineSpec, indices: Collection[int]) -> MachineSpec:
    """The spec with these places of `more_disks` free."""
    places = [None if index in indices else disk for index, disk in enumerate(spec.more_disks)]
    while places and places[-1] is None:
        places.pop()
    return replace(spec, more_disks=tuple(places))


def without_first_disks(spec: MachineSpec, indices: Collection[int]) -> MachineSpec:
    """The spec with these places of `disks` empty. The other disks keep their places."""
    disks = [replace(disk, path=RELEASED) if index in indices else disk for index, disk in enumerate(spec.disks)]
    return replace(spec, disks=tuple(disks))


def find_disks(spec: MachineSpec, paths: Collection[Path]) -> tuple[list[int], list[int]]:
    """The places of these paths in `disks` and in `more_disks`."""
    first = [index for index, disk in enumerate(spec.disks) if disk.path in paths and not disk.released]
    more = [index for index, disk in enumerate(spec.more_disks) if disk is not None and disk.path in paths]
    return first, more
