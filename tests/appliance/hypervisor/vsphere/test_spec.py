"""Specs of VMs as pure functions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from appliance.errors import HypervisorError, InvalidParameter
from appliance.hypervisor import NO_BRIDGE, Disk, MachineSpec, Nic, ResourceShares, ScsiAddress
from appliance.hypervisor.vsphere.spec import (
    MACHINE_KEY,
    SPEC_KEY,
    TENANT_KEY,
    PlacedDisk,
    address_of,
    check_names,
    config_of,
    decode,
    encode,
    is_unassigned,
    name_of,
    nic_device,
    plugging,
    share_change,
    uuid_of,
    with_nic,
    without_disks,
    without_nic,
)

_NIC = Nic("02:42:00:00:00:01", bridge="br0")
_SPEC = MachineSpec("ab" * 32, 256, 2, (Disk(Path("/upper"), False),), _NIC, name="web")


def _backing(_nic: Nic) -> vim.vm.device.VirtualDevice.BackingInfo:
    return vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName="VM Network")


def test_disks_leave_the_adapters_own_unit_free() -> None:
    addresses = [address_of(index) for index in range(60)]
    assert addresses[6:8] == [ScsiAddress(0, 6, 0), ScsiAddress(0, 8, 0)]
    assert addresses[15] == ScsiAddress(1, 0, 0)
    assert len(set(addresses)) == 60
    with pytest.raises(HypervisorError, match="at most 60 disks"):
        address_of(60)


def test_a_uuid_is_the_same_whenever_it_is_made() -> None:
    # VMs of version 0.1 are found by this UUID.
    assert uuid_of("tenant", "m1") == "8f82575a-0642-55a6-9352-9bd0fb6de7f9"
    assert len({uuid_of("tenant", "m1"), uuid_of("tenant", "m2"), uuid_of("other", "m1")}) == 3


def test_names() -> None:
    assert name_of("{name}-{id}", "ours", _SPEC) == f"web-{'ab' * 6}"
    assert name_of("{tenant}: {name}", "ours", _SPEC) == "ours: web"
    assert name_of("{id}", "ours", _SPEC) == "ab" * 6
    # A machine without a name, and a name that is too long for vSphere.
    assert name_of("{name}-{id}", "ours", replace(_SPEC, name="")) == f"ours-{'ab' * 6}"
    assert name_of("{name}", "ours", replace(_SPEC, name="")) == f"ours-{'ab' * 6}"
    long = name_of("{name}-{id}", "ours", replace(_SPEC, name="n" * 200))
    assert (len(long), long[-13:]) == (80, f"-{'ab' * 6}")


@pytest.mark.parametrize("wrong", ["", "fixed", "{tenant}", "{name}/{id}", "{name}{x}", "{id", "%{id}"])
def test_templates_of_names_are_checked(wrong: str) -> None:
    with pytest.raises(InvalidParameter, match="is not a template for VM names"):
        check_names(wrong)


def test_a_spec_is_stored_with_the_vm() -> None:
    assert decode(encode(_SPEC, "vch:secret")) == (_SPEC, "vch:secret")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"serial": "x", "spec": {"id": 5}}', '{"serial": 1}'])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text)


def test_a_new_vm() -> None:
    disks = [PlacedDisk("[ds] disks/upper.vmdk", 0, False), PlacedDisk("[ds] layers/a.vmdk", 4096, True)]
    spec = replace(_SPEC, more_nics=(None, Nic("02:42:00:00:00:02", bridge=NO_BRIDGE)))
    config: Any = config_of(
        spec, "web", "ours", "ds", ("telnet://192.0.2.1:2377", "vch:secret"), _backing, disks, own_folder=True
    )
    assert config.instanceUuid == uuid_of("ours", spec.id)
    assert config.files.vmPathName == f"[ds] ours-{'ab' * 12}/ours-{'ab' * 12}.vmx"
    extra = {one.key: one.value for one in config.extraConfig}
    assert (extra[TENANT_KEY], extra[MACHINE_KEY], decode(extra[SPEC_KEY])) == (
        "ours",
        spec.id,
        (spec, "vch:secret"),
    )
    devices: list[Any] = [change.device for change in config.deviceChange]
    serial: Any
    upper: Any
    layer: Any
    (serial,) = [one for one in devices if isinstance(one, vim.vm.device.VirtualSerialPort)]
    assert (serial.backing.serviceURI, serial.backing.proxyURI) == ("vch:secret", "telnet://192.0.2.1:2377")
    upper, layer = [one for one in devices if isinstance(one, vim.vm.device.VirtualDisk)]
    assert (upper.backing.fileName, layer.backing.fileName, layer.backing.parent.fileName) == (
        "[ds] disks/upper.vmdk",
        "",
        "[ds] layers/a.vmdk",
    )
    nics: list[Any] = [one for one in devices if isinstance(one, vim.vm.device.VirtualVmxnet3)]
    assert [nic.connectable.connected for nic in nics] == [True, False]
    assert len([one for one in devices if isinstance(one, vim.vm.device.ParaVirtualSCSIController)]) == 1


def test_a_vm_for_later_disks_has_all_adapters() -> None:
    config: Any = config_of(_SPEC, "web", "ours", "ds", ("telnet://x", "vch:s"), _backing, all_adapters=True)
    devices = [change.device for change in config.deviceChange]
    assert len([one for one in devices if isinstance(one, vim.vm.device.ParaVirtualSCSIController)]) == 4


def test_writable_disks_are_detached_and_kept() -> None:
    def disk(file: str) -> vim.vm.device.VirtualDisk:
        return vim.vm.device.VirtualDisk(
            key=1, backing=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=file, diskMode="persistent")
        )

    devices = [disk("[ds] vch-ours/disks/a.vmdk"), disk("[ds] vm/child.vmdk")]
    change: Any = without_disks(devices, ("[ds] vch-ours/disks/",))
    (detached,) = change.deviceChange
    assert (detached.device, detached.operation, detached.fileOperation) == (devices[0], "remove", None)
    change = without_disks(devices, ("[ds] vch-ours/disks/",), own=True)
    assert [one.fileOperation for one in change.deviceChange] == [None, "destroy"]
    assert without_disks(devices[1:], ("[ds] vch-ours/disks/",)) is None


def test_nics_come_and_go_in_their_slots() -> None:
    second, third = Nic("02:42:00:00:00:02"), Nic("02:42:00:00:00:03")
    spec = with_nic(with_nic(_SPEC, second), third)
    assert spec.more_nics == (second, third)
    spec = without_nic(spec, second.mac)
    assert spec.more_nics == (None, third)
    assert with_nic(spec, second).more_nics == (second, third)
    assert without_nic(spec, _NIC.mac).nic is None
    with pytest.raises(HypervisorError, match="has no NIC 02:42:00:00:00:02"):
        without_nic(spec, second.mac)
    full = replace(_SPEC, more_nics=(second,) * 8)
    with pytest.raises(HypervisorError, match="at most 9 NICs"):
        with_nic(full, third)


def test_a_plugged_nic_is_recorded_in_the_same_change() -> None:
    spec = with_nic(_SPEC, Nic("02:42:00:00:00:02", bridge="br0"))
    change: Any = plugging(spec, "vch:secret", spec.more_nics[0] or _NIC, _backing(_NIC))
    devices: list[Any] = [one.device for one in change.deviceChange]
    assert nic_device(devices, "02:42:00:00:00:02") is devices[0]
    assert nic_device(devices, "02:42:00:00:00:03") is None
    assert decode(change.extraConfig[0].value) == (spec, "vch:secret")


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (ResourceShares(), ("normal", 0, 0)),
        (ResourceShares(1024, 64), ("custom", 2000, 64)),
        (ResourceShares(512, 4096), ("custom", 1000, 256)),
    ],
)
def test_shares(shares: ResourceShares, expected: tuple[str, int, int]) -> None:
    change: Any = share_change(_SPEC, shares)
    cpu = change.cpuAllocation.shares
    assert (cpu.level, cpu.shares, change.memoryAllocation.reservation) == expected


def test_unassigned_machines_are_known_by_their_id() -> None:
    assert is_unassigned("parent01")
    assert is_unassigned("blank01")
    assert not is_unassigned("ab" * 32)
