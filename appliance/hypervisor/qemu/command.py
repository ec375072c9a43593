"""QEMU's command line for a machine. Pure: descriptors are numbers that the caller passes on."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from appliance.hypervisor.driver import SHARE_TAG, Forward, MachineSpec, Nic, ScsiAddress

# The arguments name no container: everything comes over the channel, so that a restored machine can become any container's.
# nokaslr and notests save a third of the kernel's boot without KVM. loglevel=3 sends only errors to the slow serial console.
# `no_timer_check`: without KVM on a busy host the check at boot may count too few ticks, and the kernel panics.
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=3 panic=-1 nokaslr no_timer_check cryptomgr.notests random.trust_cpu=on"
)
# A template has this many disks of one size. A clone puts its files behind these disks, so no disk is plugged in.
SLOTS = 8
SLOT_BYTES = 16 << 30
# The PCI slot of the first NIC, and the number of NICs that may be plugged in after it.
_FIRST_NIC_SLOT = 0x10
MOST_MORE_NICS = 8
# Disks that are plugged in while the machine runs are LUNs of a SCSI target of their own: 0 to MOST_MORE_DISKS - 1.
_MORE_TARGET = 1
MOST_MORE_DISKS = 255
_MORE_DESCRIPTORS = 1000
# Further file systems of shares that may be plugged in. They have the PCI slots after those of the NICs.
MOST_MORE_SHARES = 6
# The PCI slots of the host's devices. The slots before are those of the devices without a fixed slot.
_FIRST_PCI_DEVICE_SLOT = 0x6
MOST_PCI_DEVICES = 8
# The MAC address of a template's NIC. Configure gives the NIC the container's address.
BLANK_MAC = "02:42:00:00:00:00"


Node = dict[str, object]
"""A block node, device or backend, as QMP's commands take it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """How a machine starts.

    `memory` is a descriptor of the file behind its memory, -1 for anonymous memory. With `shares` the machine writes to that file,
    otherwise to a private copy. With `slotted` the machine has the disk slots of a template. With `waits` QEMU loads a state, as
    its monitor is asked to. Without `modules` the machine has no modules disk: its state is of a machine that version 0.1 has started.
    """

    memory: int = -1
    shares: bool = False
    slotted: bool = False
    waits: bool = False
    modules: bool = True


BOOT = Origin()


def shared_boot_origin(memory: int) -> Origin:
    """A machine that boots with shared memory, which virtiofs needs."""
    return Origin(memory, shares=True)


def template_origin(memory: int) -> Origin:
    """A machine that boots and becomes a template."""
    return Origin(memory, shares=True, slotted=True)


def clone_origin(memory: int, *, shares: bool) -> Origin:
    return Origin(memory, shares=shares, slotted=True, waits=True)


def saved_origin(slotted: bool, modules: bool = True) -> Origin:
    """A machine that continues from its own saved state, memory included."""
    return Origin(slotted=slotted, waits=True, modules=modules)


@dataclass(frozen=True, slots=True)
class Placed:
    """A disk by its descriptor, at a LUN of the first adapter."""

    lun: int
    fd: int
    read_only: bool


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Open files that QEMU inherits: listening sockets of monitor and channel, disks, taps by the index of their NIC, virtiofsd.

    `modules` is the modules disk of the guest image.
    """

    monitor: int
    channel: int
    disks: tuple[Placed, ...]
    taps: dict[int, int] = field(default_factory=dict)
    shares: int = -1
    modules: int = 0


def command(
    program: str,
    accel: str,
    kernel: Path,
    initrd: Path,
    spec: MachineSpec,
    origin: Origin,
    descriptors: Descriptors,
    console: Path,
) -> list[str]:
    """Return argv. The machine is minimal: no firmware menu, no display, no default device."""
    cpu = "host" if accel == "kvm" else "max,-erms"  # TCG emulates REP MOVSB byte by byte
    acceleration = "kvm" if accel == "kvm" else f"tcg,thread={'multi' if spec.cpus > 1 else 'single'},tb-size=64"
    arguments = [
        program,
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-name",
        f"vch-{spec.id[:12]}",
    ]
    kind = "memory-backend-ram"
    if origin.memory >= 0:
        share = "on" if origin.shares else "off"
        kind = f"memory-backend-file,mem-path=/proc/self/fd/{origin.memory},share={share}"
    # Nothing is reserved: a machine may be larger than the host's free memory, and takes what its guest touches.
    arguments += ["-object", f"{kind},id=ram,size={spec.memory_mib}M,reserve=off"]
    if origin.waits:
        arguments += ["-incoming", "defer"]
    arguments += [
        "-machine",
        "pc,vmport=off,hpet=off,memory-backend=ram",
        "-accel",
        acceleration,
        "-cpu",
        cpu,
        "-smp",
        str(spec.cpus),
        "-m",
        f"{spec.memory_mib}M",
        "-kernel",
        str(kernel),
        "-initrd",
        str(initrd),
        "-append",
        KERNEL_ARGUMENTS,
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-chardev",
        f"file,id=console,path={console}",
        "-device",
        "isa-serial,chardev=console",
        "-chardev",
        f"socket,id=monitor,fd={descriptors.monitor},server=on,wait=off",
        "-mon",
        "chardev=monitor,mode=control",
        "-device",
        "virtio-serial-pci,max_ports=2",
        "-chardev",
        f"socket,id=tether,fd={descriptors.channel},server=on,wait=off",
        "-device",
        "virtserialport,chardev=tether,name=tether",
        "-device",
        "virtio-rng-pci",
        # VMGENID tells a restored kernel that it is a copy, so that the kernel reseeds its random numbers.
        "-device",
        "vmgenid,guid=auto",
        "-device",
        "virtio-scsi-pci,id=scsi",
    ]
    # VFIO locks all memory of the guest, so nothing of it can go back to the host.
    if not origin.slotted and not spec.pci_devices:
        # Memory that the guest frees goes back to the host. With a template's memory QEMU 7.2 would punch holes into the file that
        # all clones share, and the file is sealed.
        arguments += ["-device", "virtio-balloon-pci,free-page-reporting=on"]
    if origin.modules:
        arguments += ["-add-fd", f"fd={descriptors.modules},set=0", "-blockdev", json.dumps(_MODULES)]
        arguments += ["-device", _listed(_MODULES_DEVICE, "driver")]
    for disk in descriptors.disks:
        arguments += ["-add-fd", f"fd={disk.fd},set={disk.lun + 1}"]
    files = {disk.lun: (file_node(DiskPlace(disk.lun)), disk.read_only) for disk in descriptors.disks}
    if origin.slotted:
        files = {lun: (empty_node(), slot_is_read_only(lun)) for lun in range(SLOTS)} | files
    for lun, (file, read_only) in sorted(files.items()):
        arguments += _disk(DiskPlace(lun), file, read_only, in_slot=origin.slotted and lun < SLOTS)
    for place, nic in nics_of(spec):
        netdev, device = netdev_of(place, nic, str(descriptors.taps.get(place, 0))), nic_device(place, nic)
        arguments += ["-netdev", _listed(netdev, "type"), "-device", _listed(device, "driver")]
    for index, address in enumerate(spec.pci_devices):
        arguments += ["-device", _listed(pci_device(index, address), "driver")]
    if descriptors.shares >= 0:
        arguments += [
            "-chardev",
            f"socket,id=shares,fd={descriptors.shares}",
            "-device",
            _listed(share_device(), "driver"),
        ]
    return arguments


# Every machine has the modules disk, as a virtio-blk disk: the guest's driver for it is loaded when the guest first needs a
# module, so until then the disk costs nothing. build/guest/mount-modules finds the disk by its serial number.
_MODULES: Node = {
    "driver": "raw",
    "node-name": "modules",
    "read-only": True,
    "file": {"driver": "file", "filename": "/dev/fdset/0", "locking": "off", "read-only": True},
}
_MODULES_DEVICE: Node = {
    "driver": "virtio-blk-pci",
    "drive": "modules",
    "serial": "vch-modules",
    "bus": "pci.0",
    "addr": f"{_FIRST_NIC_SLOT - 2:#x}",
}


def slot_is_read_only(lun: int) -> bool:
    """The first slot is writable, the others are not. QEMU cannot change that while the guest has the disk."""
    return lun > 0


@dataclass(frozen=True, slots=True)
class DiskPlace:
    """A place of a disk on the adapter. `later`: a place for disks that are plugged in while the machine runs."""

    lun: int
    later: bool = False

    @property
    def name(self) -> str:
        """The name of the disk's node. A disk of a `later` place has a device of the same name."""
        return f"more{self.lun}" if self.later else f"disk{self.lun}"

    @property
    def descriptors(self) -> int:
        """The id of QEMU's set of descriptors that has the disk's file."""
        return _MORE_DESCRIPTORS + self.lun if self.later else self.lun + 1

    @property
    def address(self) -> ScsiAddress:
        """Where the guest finds the disk."""
        return ScsiAddress(0, _MORE_TARGET if self.later else 0, self.lun)


def file_node(place: DiskPlace) -> Node:
    """The file of a disk, as a descriptor that QEMU has."""
    return {"driver": "file", "filename": f"/dev/fdset/{place.descriptors}", "locking": "off"}


def empty_node(size: int = SLOT_BYTES) -> Node:
    """Stands for the file of a disk in an empty slot."""
    return {"driver": "null-co", "size": size, "read-zeroes": True}


def disk_node(place: DiskPlace, file: str, read_only: bool, *, in_slot: bool) -> Node:
    """The node that the guest's disk reads from, on top of the node `file`."""
    node: Node = {"driver": "raw", "node-name": place.name, "file": file, "read-only": read_only}
    if not read_only:
        # Zeros that a container writes take space, as in Docker: `docker ps -s` counts them. What it deletes, it discards.
        node["discard"] = "unmap"
    if in_slot:
        node["size"] = SLOT_BYTES
    return node


def backing_node(place: DiskPlace, node: Node, read_only: bool, generation: int | str) -> Node:
    """`node` with a name. A file that replaces another file of the disk has another generation."""
    mode: Node = {"read-only": True} if read_only else {"read-only": False, "discard": "unmap"}
    return {**node, **mode, "node-name": f"{place.name}-{generation}"}


def disk_device(place: DiskPlace) -> Node:
    """The disk as QMP's device_add takes it."""
    address = place.address
    device: Node = {"driver": "scsi-hd", "drive": place.name, "bus": "scsi.0", "channel": 0}
    device |= {"scsi-id": address.target, "lun": address.lun}
    return device | {"id": place.name} if place.later else device


def _disk(place: DiskPlace, file: Node, read_only: bool, *, in_slot: bool) -> list[str]:
    backing = backing_node(place, file, read_only, 0)
    return [
        "-blockdev",
        json.dumps(backing),
        "-blockdev",
        json.dumps(disk_node(place, str(backing["node-name"]), read_only, in_slot=in_slot)),
        "-device",
        _listed(disk_device(place), "driver"),
    ]


def nics_of(spec: MachineSpec) -> list[tuple[int, Nic]]:
    """All NICs with their index: 0 is the built-in NIC, the others are plugged in."""
    return [(place, nic) for place, nic in enumerate((spec.nic, *spec.more_nics)) if nic is not None]


def netdev_of(place: int, nic: Nic, tap: str) -> Node:
    """The host's end of a NIC as QMP's netdev_add takes it. `tap` is a tap's descriptor, or its name in the monitor."""
    if nic.bridge:
        return {"type": "tap", "id": f"net{place}", "fd": tap}
    return {
        "type": "user",
        "id": f"net{place}",
        "ipv6": False,
        "net": nic.network,
        "host": nic.gateway,
        "dns": nic.dns,
        "hostfwd": [{"str": _rule(forward)} for forward in nic.forwards],
    }


def _rule(forward: Forward) -> str:
    return f"{forward.protocol}:{forward.host_ip}:{forward.host_port}-{forward.address}:{forward.port}"


def forward_command(place: int, forward: Forward) -> str:
    """The command of the human monitor that adds a forward to a NIC."""
    return f"hostfwd_add net{place} {_rule(forward)}"


def unforward_command(place: int, forward: Forward) -> str:
    """The command of the human monitor that removes a forward."""
    return f"hostfwd_remove net{place} {forward.protocol}:{forward.host_ip}:{forward.host_port}"


def nic_device(place: int, nic: Nic) -> Node:
    """The NIC as QMP's device_add takes it. Its PCI slot is fixed, because a saved machine needs it in the same slot."""
    return {
        "driver": "virtio-net-pci",
        "id": f"card{place}",
        "netdev": f"net{place}",
        "mac": nic.mac,
        "romfile": "",
        "bus": "pci.0",
        "addr": f"{_FIRST_NIC_SLOT + place:#x}",
    }


def pci_device(index: int, address: str) -> Node:
    """A PCI device of the host as the command line takes it."""
    slot = f"{_FIRST_PCI_DEVICE_SLOT + index:#x}"
    return {"driver": "vfio-pci", "id": f"host{index}", "host": address, "bus": "pci.0", "addr": slot}


def share_tag(number: int) -> str:
    """The tag of a file system of shares: 0 is the machine's first, the others are plugged in while the machine runs."""
    return f"{SHARE_TAG}{number or ''}"


def share_chardev(fd: str, number: int = 0) -> Node:
    """The connection to virtiofsd as QMP's chardev-add takes it; `fd` is the descriptor's name in the monitor."""
    address = {"type": "fd", "data": {"str": fd}}
    return {"id": f"shares{number or ''}", "backend": {"type": "socket", "data": {"addr": address, "server": False}}}


def share_device(number: int = 0) -> Node:
    """The virtiofs device as QMP's device_add takes it."""
    slot = _FIRST_NIC_SLOT + MOST_MORE_NICS + number if number else _FIRST_NIC_SLOT - 1
    return {
        "driver": "vhost-user-fs-pci",
        "id": f"fs{number or ''}",
        "chardev": f"shares{number or ''}",
        "tag": share_tag(number),
        "bus": "pci.0",
        "addr": f"{slot:#x}",
    }


def _listed(node: Node, first: str) -> str:
    """A node as the command line takes it: first,key=value,..."""
    words = {True: "on", False: "off"}
    listed = [str(node[first])]
    for key, value in node.items():
        if key != first:
            values = [item["str"] for item in value] if isinstance(value, list) else [value]
            listed += [f"{key}={words[one] if isinstance(one, bool) else one}" for one in values]
    return ",".join(listed)
