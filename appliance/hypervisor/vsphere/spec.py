"""ConfigSpecs and device changes of VMs, as vSphere's calls take them. Pure: no function here makes a call."""

import json
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pyVmomi import vim

from appliance.errors import HypervisorError, InvalidParameter
from appliance.hypervisor.capabilities import ResourceShares
from appliance.hypervisor.driver import NO_BRIDGE, MachineSpec, Nic, ScsiAddress
from appliance.hypervisor.spec_json import decode_spec, encode_spec

# Namespace of the VMs' UUIDs (uuid5): the same tenant and id always give the same UUID.
_NAMESPACE = uuid.UUID("6f3b1f0a-5d0e-4c55-9d2c-3f6f5a1f7c11")
# Keys in a VM's extraConfig: its tenant, its id, its spec. The guest reads only keys that begin with guestinfo.
TENANT_KEY, MACHINE_KEY, SPEC_KEY = "vch.tenant", "vch.machine", "vch.spec"
# Prefixes of the ids of unassigned machines: parents of InstantClones, and clones that wait for a container.
PARENT, BLANK = "parent", "blank"
GUEST_ID = "other5xLinux64Guest"
ADAPTER_KEY, _DISK_KEY, _CD_KEY, _NIC_KEY, _SERIAL_KEY = 1000, 2000, 3000, 4000, 9000
# The first IDE controller, which every VM has.
_IDE_KEY = 200
_FROM_CD = vim.vm.BootOptions(bootOrder=[vim.vm.BootOptions.BootableCdromDevice()])
# Paravirtual SCSI: four adapters of sixteen units. Unit 7 is the adapter itself.
ADAPTERS, UNITS, _ADAPTERS_OWN_UNIT = 4, 15, 7
_MOST_MORE_NICS = 8
_SHORT_ID, _LONGEST_NAME = 12, 80


# The backing of a NIC: a network, or a port of a distributed portgroup.
NicBacking = vim.vm.device.VirtualDevice.BackingInfo


@dataclass(frozen=True, slots=True)
class PlacedDisk:
    """A disk on a datastore: "[datastore] folder/name.vmdk", its size in bytes (0: the size of the file).

    A read-only disk is shared between VMs.
    """

    path: str
    size: int
    read_only: bool


@dataclass(frozen=True, slots=True)
class BootCd:
    """The CD that a VM boots from: "[datastore] folder/name.iso", the datastore, and the firmware: bios or efi."""

    path: str
    datastore: vim.Datastore
    firmware: str


def address_of(index: int) -> ScsiAddress:
    """Where the guest finds the disk of this index. HypervisorError when a VM cannot have so many disks."""
    if index >= ADAPTERS * UNITS:
        raise HypervisorError(f"a machine has at most {ADAPTERS * UNITS} disks")
    adapter, unit = divmod(index, UNITS)
    return ScsiAddress(adapter, unit + (unit >= _ADAPTERS_OWN_UNIT), 0)


def is_unassigned(machine: str) -> bool:
    """Whether an id is that of a machine that belongs to no container yet."""
    return machine.startswith((PARENT, BLANK))


def uuid_of(tenant: str, machine: str) -> str:
    """The UUID of a tenant's machine. A VM is found by it when the answer to its creation was lost."""
    return str(uuid.uuid5(_NAMESPACE, f"{tenant}/{machine}"))


def check_names(template: str) -> str:
    """Return a template for VM names: text with {name} or {id}, and optionally {tenant}. InvalidParameter for anything else."""
    left = re.sub(r"\{(name|id|tenant)\}", "", template)
    if (
        left == template
        or not {"{name}", "{id}"} & set(re.findall(r"\{\w+\}", template))
        or re.search(r"[{}%/\\\[\]]", left)
    ):
        raise InvalidParameter(
            f"{template!r} is not a template for VM names: it is text with {{name}} or {{id}}, and optionally {{tenant}}"
        )
    return template


def name_of(template: str, tenant: str, spec: MachineSpec) -> str:
    """The VM's name in the vSphere client, at most 80 characters, which is vSphere's limit."""
    short = spec.id[:_SHORT_ID]
    around = len(template.format(name="", id=short, tenant=tenant))
    # An unassigned machine has no name of its own, and there may be many of them.
    fallback = tenant if "{id}" in template else f"{tenant}-{short}"
    name = (spec.name or fallback)[: max(1, _LONGEST_NAME - around)]
    return template.format(name=name, id=short, tenant=tenant)[:_LONGEST_NAME]


def config_of(
    spec: MachineSpec,
    name: str,
    tenant: str,
    datastore: str,
    serial: tuple[str, str],
    backing_of: Callable[[Nic], NicBacking],
    disks: Sequence[PlacedDisk] = (),
    cd: BootCd | None = None,
    *,
    all_adapters: bool = False,
    own_folder: bool = True,
) -> vim.vm.ConfigSpec:
    """The ConfigSpec of a new VM. `serial` holds the concentrator's URI and the port's own; `backing_of` gives a NIC's backing.

    With `all_adapters` the VM has all SCSI adapters, for disks that are plugged in later. With `own_folder` the VM's folder on the
    datastore has a name that follows from its id; otherwise the datastore chooses the folder.
    """
    folder = f"{tenant}-{spec.id[:24]}"
    devices = [_serial_port(*serial)]
    adapters = {address_of(index).adapter for index in range(len(disks))} if not all_adapters else set(range(ADAPTERS))
    devices += [_adapter(number) for number in sorted(adapters)]
    devices += [added_disk(index, disk, _DISK_KEY + index) for index, disk in enumerate(disks)]
    devices += [_nic(_NIC_KEY + index, nic, backing_of(nic)) for index, nic in enumerate(_nics(spec))]
    if cd is not None:
        devices.append(_cd(cd))
    return vim.vm.ConfigSpec(
        name=name,
        # The folder does not depend on the VM's name, which an operator may change.
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


def _added(device: vim.vm.device.VirtualDevice) -> vim.vm.device.VirtualDeviceSpec:
    return vim.vm.device.VirtualDeviceSpec(operation=vim.vm.device.VirtualDeviceSpec.Operation.add, device=device)


def removed(device: vim.vm.device.VirtualDevice, *, destroy: bool = False) -> vim.vm.device.VirtualDeviceSpec:
    """The removal of a device; with `destroy` also of its file."""
    change = vim.vm.device.VirtualDeviceSpec(operation=vim.vm.device.VirtualDeviceSpec.Operation.remove, device=device)
    if destroy:
        change.fileOperation = vim.vm.device.VirtualDeviceSpec.FileOperation.destroy
    return change


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
        vim.vm.device.ParaVirtualSCSIController(key=ADAPTER_KEY + number, busNumber=number, sharedBus="noSharing")
    )


def added_disk(index: int, disk: PlacedDisk, key: int) -> vim.vm.device.VirtualDeviceSpec:
    """A read-only disk gets a child disk in the VM's folder, so that vSphere can move the VM and take snapshots of it."""
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
            controllerKey=ADAPTER_KEY + address.adapter,
            unitNumber=address.target,
            backing=backing,
            capacityInBytes=disk.size,
            capacityInKB=disk.size >> 10,
        )
    )
    if disk.read_only:
        spec.fileOperation = vim.vm.device.VirtualDeviceSpec.FileOperation.create
    return spec


def without_disks(
    devices: Sequence[vim.vm.device.VirtualDevice], folders: tuple[str, ...], *, own: bool = False
) -> vim.vm.ConfigSpec | None:
    """A change that detaches, and keeps, a VM's disks whose files are below one of `folders`; None when there are no such disks.

    With `own` the change also detaches and deletes all other disks.
    """
    gone = []
    for device in devices:
        if isinstance(device, vim.vm.device.VirtualDisk):
            keeps_file = str(getattr(device.backing, "fileName", "")).startswith(folders)
            if keeps_file or own:
                gone.append(removed(device, destroy=not keeps_file))
    return vim.vm.ConfigSpec(deviceChange=gone) if gone else None


# -- InstantClones --------------------------------------------------------------------------------------------------------


def cloning(
    spec: MachineSpec,
    name: str,
    tenant: str,
    serial: str,
    folder: vim.Folder,
    pool: vim.ResourcePool,
    datastore: vim.Datastore,
) -> vim.vm.InstantCloneSpec:
    """The spec of an unassigned InstantClone. Its serial port keeps the parent's URI: vSphere allows a clone no other."""
    return vim.vm.InstantCloneSpec(
        name=name,
        location=vim.vm.RelocateSpec(folder=folder, pool=pool, datastore=datastore),
        config=_facts(spec, tenant, serial),
        # The clone is found by this UUID: vCenter chooses the instance UUID.
        biosUuid=uuid_of(tenant, spec.id),
    )


def becoming(
    spec: MachineSpec,
    name: str,
    tenant: str,
    serial: str,
    disks: Sequence[PlacedDisk],
    backing_of: Callable[[Nic], NicBacking],
) -> vim.vm.ConfigSpec:
    """A change that gives an unassigned VM the name, disks and NICs of `spec`."""
    # For keys below zero the server chooses the real keys.
    devices = [added_disk(index, disk, -1 - index) for index, disk in enumerate(disks)]
    devices += [_nic(-1 - len(disks) - number, nic, backing_of(nic)) for number, nic in enumerate(_nics(spec))]
    return vim.vm.ConfigSpec(name=name, deviceChange=devices, extraConfig=_facts(spec, tenant, serial))


def share_change(spec: MachineSpec, shares: ResourceShares) -> vim.vm.ConfigSpec:
    """A change of a VM's shares. 1024 shares, Docker's default for a container, become vSphere's normal 1000 shares per CPU."""
    level = "custom" if shares.cpu_shares else "normal"
    cpu = vim.SharesInfo(level=level, shares=shares.cpu_shares * spec.cpus * 1000 // 1024)
    return vim.vm.ConfigSpec(
        cpuAllocation=vim.ResourceAllocationInfo(shares=cpu),
        memoryAllocation=vim.ResourceAllocationInfo(reservation=min(shares.memory_mib, spec.memory_mib)),
    )


# -- NICs of a running VM -------------------------------------------------------------------------------------------------


def with_nic(spec: MachineSpec, nic: Nic) -> MachineSpec:
    """The spec with one more NIC. HypervisorError when all slots are used."""
    nics = [*spec.more_nics]
    if None in nics:
        nics[nics.index(None)] = nic
    elif len(nics) < _MOST_MORE_NICS:
        nics.append(nic)
    else:
        raise HypervisorError(f"a machine has at most {_MOST_MORE_NICS + 1} NICs")
    return replace(spec, more_nics=tuple(nics))


def without_nic(spec: MachineSpec, mac: str) -> MachineSpec:
    """The spec without the NIC of this MAC address. HypervisorError when there is no such NIC."""
    if spec.nic is not None and spec.nic.mac == mac:
        return replace(spec, nic=None)
    if not any(nic is not None and nic.mac == mac for nic in spec.more_nics):
        raise HypervisorError(f"the machine has no NIC {mac}")
    nics = (None if nic is not None and nic.mac == mac else nic for nic in spec.more_nics)
    return replace(spec, more_nics=tuple(nics))


def nic_device(devices: Sequence[vim.vm.device.VirtualDevice], mac: str) -> vim.vm.device.VirtualEthernetCard | None:
    """The NIC with this MAC address among a VM's devices."""
    nics = (one for one in devices if isinstance(one, vim.vm.device.VirtualEthernetCard))
    return next((one for one in nics if str(one.macAddress).lower() == mac.lower()), None)


def plugging(spec: MachineSpec, serial: str, nic: Nic, backing: NicBacking) -> vim.vm.ConfigSpec:
    """A change that adds a NIC. `spec` is the machine's spec after the change."""
    # For a key below zero the server chooses the real key.
    return change_devices(spec, serial, [_nic(-1, nic, backing)])


def unplugging(spec: MachineSpec, serial: str, device: vim.vm.device.VirtualDevice) -> vim.vm.ConfigSpec:
    """A change that removes a NIC. `spec` is the machine's spec after the change."""
    return change_devices(spec, serial, [removed(device)])


def change_devices(
    spec: MachineSpec, serial: str, changes: Sequence[vim.vm.device.VirtualDeviceSpec]
) -> vim.vm.ConfigSpec:
    """A change of a VM's devices. `spec` is the machine's spec after the change."""
    return vim.vm.ConfigSpec(
        deviceChange=[*changes], extraConfig=[vim.option.OptionValue(key=SPEC_KEY, value=encode(spec, serial))]
    )


def _serial_port(concentrator: str, own: str) -> vim.vm.device.VirtualDeviceSpec:
    # The VM's host connects to the concentrator as a client, and sends the port's own URI (DO-PROXY).
    backing = vim.vm.device.VirtualSerialPort.URIBackingInfo(serviceURI=own, direction="client", proxyURI=concentrator)
    connectable = vim.vm.device.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=False, connected=True)
    return _added(
        vim.vm.device.VirtualSerialPort(key=_SERIAL_KEY, backing=backing, connectable=connectable, yieldOnPoll=True)
    )


def _nic(key: int, nic: Nic, backing: NicBacking) -> vim.vm.device.VirtualDeviceSpec:
    # A NIC without a network exists, but is disconnected.
    connected = nic.bridge != NO_BRIDGE
    connectable = vim.vm.device.VirtualDevice.ConnectInfo(
        startConnected=connected, allowGuestControl=False, connected=connected
    )
    return _added(
        vim.vm.device.VirtualVmxnet3(
            key=key, backing=backing, connectable=connectable, addressType="manual", macAddress=nic.mac
        )
    )


# -- the spec in a VM's extraConfig ---------------------------------------------------------------------------------------


def encode(spec: MachineSpec, serial: str) -> str:
    """A machine's spec and the URI of its serial port, as the VM's extraConfig stores them."""
    return json.dumps({"spec": encode_spec(spec), "serial": serial}, separators=(",", ":"))


def decode(text: str) -> tuple[MachineSpec, str]:
    """Undo `encode`. ValueError for any other text: everyone who may configure the VM may change it."""
    stored = json.loads(text)
    if not isinstance(stored, dict) or not isinstance(stored.get("serial"), str):
        raise ValueError("not the spec of a machine of this driver")
    return decode_spec(stored.get("spec")), stored["serial"]
