"""QEMU's command line for a machine. Pure: descriptors are numbers that the caller passes on."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from appliance.hypervisor.driver import SHARE_TAG, Forward, MachineSpec, Nic

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
    if not origin.slotted:
        # Memory that the guest frees goes back to the host. With a template's memory QEMU 7.2 would punch holes into the file that
        # all clones share, and the file is sealed.
        arguments += ["-device", "virtio-balloon-pci,free-page-reporting=on"]
    if origin.modules:
        arguments += ["-add-fd", f"fd={descriptors.modules},set=0", "-blockdev", json.dumps(_MODULES)]
        arguments += ["-device", _listed(_MODULES_DEVICE, "driver")]
    for disk in descriptors.disks:
        arguments += ["-add-fd", f"fd={disk.fd},set={disk.lun + 1}"]
    files = {disk.lun: (file_node(disk.lun), disk.read_only) for disk in descriptors.disks}
    if origin.slotted:
        files = {lun: (_EMPTY, slot_is_read_only(lun)) for lun in range(SLOTS)} | files
    for lun, (file, read_only) in sorted(files.items()):
        arguments += _disk(lun, file, read_only, in_slot=origin.slotted and lun < SLOTS)
    for place, nic in nics_of(spec):
        netdev, device = netdev_of(place, nic, str(descriptors.taps.get(place, 0))), nic_device(place, nic)
        arguments += ["-netdev", _listed(netdev, "type"), "-device", _listed(device, "driver")]
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
_EMPTY: Node = {"driver": "null-co", "size": SLOT_BYTES, "read-zeroes": True}


def slot_is_read_only(lun: int) -> bool:
    """The first slot is writable, the others are not. QEMU cannot change that while the guest has the disk."""
    return lun > 0


def file_node(lun: int) -> Node:
    """The file of the disk at `lun`, which QEMU has as descriptor set lun + 1."""
    return {"driver": "file", "filename": f"/dev/fdset/{lun + 1}", "locking": "off"}


def disk_node(lun: int, file: str, read_only: bool, *, in_slot: bool) -> Node:
    """The node that the guest's disk reads from, on top of the node `file`."""
    node: Node = {"driver": "raw", "node-name": f"disk{lun}", "file": file, "read-only": read_only}
    if not read_only:
        # Zeros that a container writes take space, as in Docker: `docker ps -s` counts them. What it deletes, it discards.
        node["discard"] = "unmap"
    if in_slot:
        node["size"] = SLOT_BYTES
    return node


def backing_node(lun: int, node: Node, read_only: bool, generation: int) -> Node:
    """`node` with a name. A file that replaces another file of the disk has a higher generation."""
    mode: Node = {"read-only": True} if read_only else {"read-only": False, "discard": "unmap"}
    return {**node, **mode, "node-name": f"disk{lun}-{generation}"}


def disk_device(lun: int) -> dict[str, object]:
    """The disk as QMP's device_add takes it."""
    return {"driver": "scsi-hd", "drive": f"disk{lun}", "bus": "scsi.0", "channel": 0, "scsi-id": 0, "lun": lun}


def _disk(lun: int, file: Node, read_only: bool, *, in_slot: bool) -> list[str]:
    backing = backing_node(lun, file, read_only, 0)
    return [
        "-blockdev",
        json.dumps(backing),
        "-blockdev",
        json.dumps(disk_node(lun, str(backing["node-name"]), read_only, in_slot=in_slot)),
        "-device",
        _listed(disk_device(lun), "driver"),
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


def share_chardev(fd: str) -> Node:
    """The connection to virtiofsd as QMP's chardev-add takes it; `fd` is the descriptor's name in the monitor."""
    address = {"type": "fd", "data": {"str": fd}}
    return {"id": "shares", "backend": {"type": "socket", "data": {"addr": address, "server": False}}}


def share_device() -> Node:
    """The virtiofs device as QMP's device_add takes it."""
    return {
        "driver": "vhost-user-fs-pci",
        "id": "fs",
        "chardev": "shares",
        "tag": SHARE_TAG,
        "bus": "pci.0",
        "addr": f"{_FIRST_NIC_SLOT - 1:#x}",
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
