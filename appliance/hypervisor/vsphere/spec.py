"""Specs as vSphere takes them: pure, no call is made here."""

import json
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyVmomi import vim

from appliance.errors import HypervisorError, InvalidParameter
from appliance.hypervisor.driver import NO_BRIDGE, MachineSpec, Nic, ResourceShares, ScsiAddress
from appliance.hypervisor.facts import decode_spec, encode_spec

# Of machines' UUIDs, so that each is the same whenever it is asked for.
_NAMESPACE = uuid.UUID("6f3b1f0a-5d0e-4c55-9d2c-3f6f5a1f7c11")
# In a machine's extraConfig: whose it is, which it is, what it was made to. The guest does not see keys without guestinfo.
TENANT_KEY, MACHINE_KEY, SPEC_KEY = "vch.tenant", "vch.machine", "vch.spec"
# What the ids of machines begin with that are no container's: those that others are cloned from, and their clones.
PARENT, BLANK = "parent", "blank"
GUEST_ID = "other5xLinux64Guest"
_ADAPTER_KEY, _DISK_KEY, _CD_KEY, _CARD_KEY, _SERIAL_KEY = 1000, 2000, 3000, 4000, 9000
# The first IDE controller, which every machine has.
_IDE_KEY = 200
_FROM_CD = vim.vm.BootOptions(bootOrder=[vim.vm.BootOptions.BootableCdromDevice()])
# Of paravirtual SCSI: four adapters of sixteen units, of which one is the adapter's own.
_ADAPTERS, _UNITS, _ADAPTERS_OWN_UNIT = 4, 15, 7
_MORE_CARDS = 8
_SHORT_ID, _LONGEST_NAME = 12, 80


@dataclass(frozen=True, slots=True)
class PlacedDisk:
    """A disk on a datastore: "[datastore] folder/name.vmdk", its bytes (0: as it is). What is only read is shared between machines."""

    path: str
    size: int
    read_only: bool


@dataclass(frozen=True, slots=True)
class BootCd:
    """What a machine boots from: "[datastore] folder/name.iso", the datastore, and the firmware: bios or efi."""

    path: str
    datastore: Any
    firmware: str


def address_of(index: int) -> ScsiAddress:
    """Where the guest finds a machine's disk of this number. HypervisorError when there is no place for so many."""
    if index >= _ADAPTERS * _UNITS:
        raise HypervisorError(f"a machine has room for {_ADAPTERS * _UNITS} disks")
    adapter, unit = divmod(index, _UNITS)
    return ScsiAddress(adapter, unit + (unit >= _ADAPTERS_OWN_UNIT), 0)


def is_nobodys(machine: str) -> bool:
    """Whether an id is that of a machine for containers to come."""
    return machine.startswith((PARENT, BLANK))


def uuid_of(tenant: str, machine: str) -> str:
    """The instance UUID of a tenant's machine: by it a machine is found whose creation was not heard of."""
    return str(uuid.uuid5(_NAMESPACE, f"{tenant}/{machine}"))


def check_names(convention: str) -> str:
    """A convention of machines' names, if it is one: text with {name}, {id} and {tenant} in it. InvalidParameter."""
    left = re.sub(r"\{(name|id|tenant)\}", "", convention)
    if (
        left == convention
        or not {"{name}", "{id}"} & set(re.findall(r"\{\w+\}", convention))
        or re.search(r"[{}%/\\\[\]]", left)
    ):
        raise InvalidParameter(
            f"{convention!r} is no convention of names: text with {{name}} or {{id}} in it, and {{tenant}}"
        )
    return convention


def name_of(convention: str, tenant: str, spec: MachineSpec) -> str:
    """What the vSphere client calls it; vSphere allows 80 characters."""
    short = spec.id[:_SHORT_ID]
    around = len(convention.format(name="", id=short, tenant=tenant))
    # Of those that are no container's there may be many.
    unmatched = tenant if "{id}" in convention else f"{tenant}-{short}"
    name = (spec.name or unmatched)[: max(1, _LONGEST_NAME - around)]
    return convention.format(name=name, id=short, tenant=tenant)[:_LONGEST_NAME]


def config_of(
    spec: MachineSpec,
    name: str,
    tenant: str,
    datastore: str,
    serial: tuple[str, str],
    backing_of: Callable[[Nic], Any],
    disks: Sequence[PlacedDisk] = (),
    cd: BootCd | None = None,
    *,
    all_adapters: bool = False,
    own_folder: bool = True,
) -> vim.vm.ConfigSpec:
    """A machine that is not there yet. `serial` are the concentrator's URI and the port's own, `backing_of` a NIC is what backs it.

    `all_adapters`: it is to have disks later, of whatever number. `own_folder`: in one that is called after it.
    """
    folder = f"{tenant}-{spec.id[:24]}"
    devices = [_serial_port(*serial)]
    adapters = {address_of(index).adapter for index in range(len(disks))} if not all_adapters else set(range(_ADAPTERS))
    devices += [_adapter(number) for number in sorted(adapters)]
    devices += [_disk(index, disk, _DISK_KEY + index) for index, disk in enumerate(disks)]
    devices += [_nic(_CARD_KEY + index, nic, backing_of(nic)) for index, nic in enumerate(_nics(spec))]
    if cd is not None:
        devices.append(_cd(cd))
    return vim.vm.ConfigSpec(
        name=name,
        # A folder of its own, whatever it is called.
        files=vim.vm.FileInfo(vmPathName=f"[{datastore}] {folder}/{folder}.vmx" if own_folder else f"[{datastore}]"),
        instanceUuid=uuid_of(tenant, spec.id),
        guestId=GUEST_ID,
        numCPUs=spec.cpus,
        memoryMB=spec.memory_mib,
        firmware=cd.firmware if cd is not None else None,
        bootOptions=_FROM_CD if cd is not None else None,
        deviceChange=devices,
        extraConfig=_facts(spec, tenant, serial[1]),
    )


def _nics(spec: MachineSpec) -> list[Nic]:
    return [nic for nic in (spec.nic, *spec.more_nics) if nic is not None]


def _facts(spec: MachineSpec, tenant: str, serial: str) -> list[vim.option.OptionValue]:
    extra = {TENANT_KEY: tenant, MACHINE_KEY: spec.id, SPEC_KEY: encode(spec, serial)}
    return [vim.option.OptionValue(key=key, value=value) for key, value in extra.items()]


def _added(device: Any) -> vim.vm.device.VirtualDeviceSpec:
    return vim.vm.device.VirtualDeviceSpec(operation=vim.vm.device.VirtualDeviceSpec.Operation.add, device=device)


def _removed(device: Any) -> vim.vm.device.VirtualDeviceSpec:
    return vim.vm.device.VirtualDeviceSpec(operation=vim.vm.device.VirtualDeviceSpec.Operation.remove, device=device)


def _cd(cd: BootCd) -> vim.vm.device.VirtualDeviceSpec:
    backing = vim.vm.device.VirtualCdrom.IsoBackingInfo(fileName=cd.path, datastore=cd.datastore)
    connectable = vim.vm.device.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=False, connected=True)
    return _added(
        vim.vm.device.VirtualCdrom(
            key=_CD_KEY, controllerKey=_IDE_KEY, unitNumber=0, backing=backing, connectable=connectable
        )
    )


def _adapter(number: int) -> vim.vm.device.VirtualDeviceSpec:
    return _added(
        vim.vm.device.ParaVirtualSCSIController(key=_ADAPTER_KEY + number, busNumber=number, sharedBus="noSharing")
    )


def _disk(index: int, disk: PlacedDisk, key: int) -> vim.vm.device.VirtualDeviceSpec:
    """One that is only read gets a child of its own, in the machine's folder, so that the machine can be moved and snapshot."""
    address = address_of(index)
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(diskMode="persistent", thinProvisioned=True)
    if disk.read_only:
        backing.fileName = ""
        backing.parent = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=disk.path, diskMode="persistent")
    else:
        backing.fileName = disk.path
    spec = _added(
        vim.vm.device.VirtualDisk(
            key=key,
            controllerKey=_ADAPTER_KEY + address.adapter,
            unitNumber=address.target,
            backing=backing,
            capacityInBytes=disk.size,
            capacityInKB=disk.size >> 10,
        )
    )
    if disk.read_only:
        spec.fileOperation = vim.vm.device.VirtualDeviceSpec.FileOperation.create
    return spec


def without_disks(devices: Sequence[Any], folders: tuple[str, ...], *, own: bool = False) -> vim.vm.ConfigSpec | None:
    """A change that takes away, and leaves alone, the disks of a machine that are below one of the folders; None when there are none.

    With `own` those of its own go, too, and are removed.
    """
    gone = []
    for device in devices:
        if isinstance(device, vim.vm.device.VirtualDisk):
            kept = str(getattr(device.backing, "fileName", "")).startswith(folders)
            if kept or own:
                change = _removed(device)
                if not kept:
                    change.fileOperation = vim.vm.device.VirtualDeviceSpec.FileOperation.destroy
                gone.append(change)
    return vim.vm.ConfigSpec(deviceChange=gone) if gone else None


# -- clones of a running machine ------------------------------------------------------------------------------------------


def cloning(
    spec: MachineSpec, name: str, tenant: str, serial: str, folder: Any, pool: Any, datastore: Any
) -> vim.vm.InstantCloneSpec:
    """A running machine that is to be nobody's for now. Its port keeps its parent's URI: vSphere lets no clone have another."""
    return vim.vm.InstantCloneSpec(
        name=name,
        location=vim.vm.RelocateSpec(folder=folder, pool=pool, datastore=datastore),
        config=_facts(spec, tenant, serial),
        # By this it is found again: its instance's is vCenter's to choose.
        biosUuid=uuid_of(tenant, spec.id),
    )


def becoming(
    spec: MachineSpec,
    name: str,
    tenant: str,
    serial: str,
    disks: Sequence[PlacedDisk],
    backing_of: Callable[[Nic], Any],
) -> vim.vm.ConfigSpec:
    """A change that makes a machine of nobody's this one."""
    # Below zero: the server chooses the keys.
    devices = [_disk(index, disk, -1 - index) for index, disk in enumerate(disks)]
    devices += [_nic(-1 - len(disks) - number, nic, backing_of(nic)) for number, nic in enumerate(_nics(spec))]
    return vim.vm.ConfigSpec(name=name, deviceChange=devices, extraConfig=_facts(spec, tenant, serial))


def weighing(spec: MachineSpec, weight: ResourceShares) -> vim.vm.ConfigSpec:
    """A change of what a machine gets. Docker's 1024 shares a CPU stand for vSphere's 1000."""
    level = "custom" if weight.cpu_shares else "normal"
    shares = vim.SharesInfo(level=level, shares=weight.cpu_shares * spec.cpus * 1000 // 1024)
    return vim.vm.ConfigSpec(
        cpuAllocation=vim.ResourceAllocationInfo(shares=shares),
        memoryAllocation=vim.ResourceAllocationInfo(reservation=min(weight.memory_mib, spec.memory_mib)),
    )


# -- NICs that come and go while it runs ------------------------------------------------------------------------------


def with_card(spec: MachineSpec, nic: Nic) -> MachineSpec:
    """The same with one NIC more. HypervisorError when there is no room."""
    nics = [*spec.more_nics]
    if None in nics:
        nics[nics.index(None)] = nic
    elif len(nics) < _MORE_CARDS:
        nics.append(nic)
    else:
        raise HypervisorError(f"a machine has room for {_MORE_CARDS + 1} network NICs")
    return replace(spec, more_nics=tuple(nics))


def without_card(spec: MachineSpec, mac: str) -> MachineSpec:
    """The same without the NIC of this address. HypervisorError when it has none."""
    if spec.nic is not None and spec.nic.mac == mac:
        return replace(spec, nic=None)
    if not any(nic is not None and nic.mac == mac for nic in spec.more_nics):
        raise HypervisorError(f"the machine has no NIC {mac}")
    nics = (None if nic is not None and nic.mac == mac else nic for nic in spec.more_nics)
    return replace(spec, more_nics=tuple(nics))


def card_of(devices: Sequence[Any], mac: str) -> Any:
    """The device of a machine that is the NIC of this address; None when there is none."""
    nics = (one for one in devices if isinstance(one, vim.vm.device.VirtualEthernetCard))
    return next((one for one in nics if str(one.macAddress).lower() == mac.lower()), None)


def plugging(spec: MachineSpec, serial: str, nic: Nic, backing: Any) -> vim.vm.ConfigSpec:
    """A change that adds a NIC; `spec` is what the machine is after it."""
    # Below zero: the server chooses the key.
    return _rewritten(spec, serial, _nic(-1, nic, backing))


def unplugging(spec: MachineSpec, serial: str, device: Any) -> vim.vm.ConfigSpec:
    """A change that takes a NIC away."""
    return _rewritten(spec, serial, _removed(device))


def _rewritten(spec: MachineSpec, serial: str, change: vim.vm.device.VirtualDeviceSpec) -> vim.vm.ConfigSpec:
    return vim.vm.ConfigSpec(
        deviceChange=[change], extraConfig=[vim.option.OptionValue(key=SPEC_KEY, value=encode(spec, serial))]
    )


def _serial_port(concentrator: str, own: str) -> vim.vm.device.VirtualDeviceSpec:
    # The machine connects, as a client; what its own URI is, the host tells the concentrator (DO-PROXY).
    backing = vim.vm.device.VirtualSerialPort.URIBackingInfo(serviceURI=own, direction="client", proxyURI=concentrator)
    connectable = vim.vm.device.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=False, connected=True)
    return _added(
        vim.vm.device.VirtualSerialPort(key=_SERIAL_KEY, backing=backing, connectable=connectable, yieldOnPoll=True)
    )


def _nic(key: int, nic: Nic, backing: Any) -> vim.vm.device.VirtualDeviceSpec:
    # One that is on no network is there all the same, with its cable out.
    there = nic.bridge != NO_BRIDGE
    connectable = vim.vm.device.VirtualDevice.ConnectInfo(
        startConnected=there, allowGuestControl=False, connected=there
    )
    return _added(
        vim.vm.device.VirtualVmxnet3(
            key=key, backing=backing, connectable=connectable, addressType="manual", macAddress=nic.mac
        )
    )


# -- what was asked for, kept with the machine ----------------------------------------------------------------------------


def encode(spec: MachineSpec, serial: str) -> str:
    """A machine's spec and the URI of its serial port, as its extraConfig keeps them."""
    return json.dumps({"spec": encode_spec(spec), "serial": serial}, separators=(",", ":"))


def decode(text: str) -> tuple[MachineSpec, str]:
    """Undo `encode`. ValueError for what is none: whoever may configure machines may write there."""
    kept = json.loads(text)
    if not isinstance(kept, dict) or not isinstance(kept.get("serial"), str):
        raise ValueError("it is no machine of ours")
    return decode_spec(kept.get("spec")), kept["serial"]
