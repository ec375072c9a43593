"""Places of disks in a VM that runs, and the changes of its devices."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pyVmomi import vim

from appliance.hypervisor import Disk, MachineSpec, ScsiAddress
from appliance.hypervisor.more_disks import with_disks, without_first_disks
from appliance.hypervisor.vsphere.more_disks import (
    VmDisk,
    address_of_place,
    disk_at,
    most_places,
    plugging_disks,
    releasing_disks,
    vm_disks,
    writable,
)
from appliance.hypervisor.vsphere.spec import ADAPTER_KEY, PlacedDisk, decode

_UPPER, _LAYER = Disk(Path("/own/upper"), False), Disk(Path("/layers/a"), True)
_SPEC = MachineSpec("m1", 256, 1, (_UPPER, _LAYER), grows=True)


def _device(key: int, address: ScsiAddress) -> vim.vm.device.VirtualDisk:
    return vim.vm.device.VirtualDisk(key=key, controllerKey=ADAPTER_KEY + address.adapter, unitNumber=address.target)


def test_places_are_units_of_the_adapters_that_the_vm_has() -> None:
    assert most_places(_SPEC) == 58
    assert address_of_place(_SPEC, 0) == ScsiAddress(0, 2, 0)
    assert address_of_place(_SPEC, 57) == ScsiAddress(3, 15, 0)
    assert most_places(replace(_SPEC, grows=False)) == 13
    assert most_places(replace(_SPEC, grows=False, disks=(_UPPER, *[_LAYER] * 15))) == 14
    assert most_places(MachineSpec("m1", 256, 1)) == 0


def test_a_place_stays_when_a_disk_before_is_released() -> None:
    spec = replace(_SPEC, disks=(_UPPER, *(Disk(Path(f"/layers/{number}"), True) for number in range(50))))
    before = address_of_place(spec, 0)
    assert address_of_place(without_first_disks(spec, range(51)), 0) == before


def test_a_stack_is_removed_with_the_last_of_its_layers() -> None:
    # 50 layers are 39 disks and a stack of eleven.
    spec = replace(_SPEC, disks=(_UPPER, *(Disk(Path(f"/layers/{number}"), True) for number in range(50))))
    assert vm_disks(spec, [0, 1], []) == [VmDisk(ScsiAddress(0, 0, 0), False), VmDisk(ScsiAddress(0, 1, 0), True)]
    assert vm_disks(spec, range(41, 51), []) == []
    stack = VmDisk(ScsiAddress(2, 11, 0), True)
    assert vm_disks(spec, range(40, 51), []) == [stack]
    assert vm_disks(without_first_disks(spec, range(41, 51)), [40], []) == [stack]


def test_disks_are_added_and_recorded_in_one_change() -> None:
    spec, places = with_disks(_SPEC, [Disk(Path("/new/upper"), False), _LAYER], 10)
    placed = [PlacedDisk("[ds] disks/new.upper.vmdk", 0, False), PlacedDisk("[ds] layers/a.vmdk", 4096, True)]
    change: Any = plugging_disks(spec, "vch:secret", places, placed)
    assert decode(change.extraConfig[0].value) == (spec, "vch:secret")
    devices: list[Any] = [one.device for one in change.deviceChange]
    assert [disk_at(devices, address_of_place(spec, place)) for place in places] == devices
    assert len({device.key for device in devices}) == 2
    assert all(device.key < 0 for device in devices)
    assert (devices[0].backing.fileName, devices[1].backing.parent.fileName) == (placed[0].path, placed[1].path)


def test_the_files_of_writable_disks_outlive_their_removal() -> None:
    spec, _ = with_disks(_SPEC, [Disk(Path("/new/upper"), False), _LAYER], 10)
    disks = vm_disks(spec, [], [0, 1])
    devices = [_device(number, disk.address) for number, disk in enumerate(disks)]
    change: Any = releasing_disks(_SPEC, "vch:secret", devices, disks)
    assert [(one.device, one.operation, one.fileOperation) for one in change.deviceChange] == [
        (devices[0], "remove", None),
        (devices[1], "remove", "destroy"),
    ]
    # An operator has removed a disk.
    change = releasing_disks(_SPEC, "vch:secret", devices[:1], disks)
    assert [one.device for one in change.deviceChange] == devices[:1]


def test_writable_disks_of_a_machine() -> None:
    joiner = Disk(Path("/new/upper"), False)
    spec, _ = with_disks(without_first_disks(_SPEC, [0]), [joiner, _LAYER], 10)
    assert writable(spec) == [joiner]
    assert writable(_SPEC) == [_UPPER]
