"""QEMU's command line for a machine. Pure: descriptors are numbers that the caller passes on."""

import json
from dataclasses import dataclass
from pathlib import Path

from appliance.hypervisor.driver import Card, MachineSpec

# Nothing of a container is in here: what it needs comes over the channel, so that a restored machine can become any.
# nokaslr and notests save a third of the kernel's boot without KVM; loglevel keeps the 16550 quiet but for real trouble.
KERNEL_ARGUMENTS = "console=ttyS0 quiet loglevel=3 panic=-1 nokaslr cryptomgr.notests random.trust_cpu=on"
# A template has so many disks of one size; a clone puts files of that size behind them, so nothing is plugged in.
SLOTS = 8
SLOT_BYTES = 16 << 30
# The card of a template. The guest gives it the container's address when it is told which.
BLANK_MAC = "02:42:00:00:00:00"


Node = dict[str, object]
"""A block node as QMP's blockdev-add takes it."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Open files passed to QEMU: listening sockets of the monitor and the tether's channel, the disks in order.

    `memory` backs the machine's memory, -1 for a machine that boots for itself; a template writes to it, a clone has a private
    copy of it.
    """

    monitor: int
    channel: int
    disks: tuple[int, ...]
    memory: int = -1
    is_template: bool = False

    @property
    def is_clone(self) -> bool:
        return self.memory >= 0 and not self.is_template


def command(
    program: str, accel: str, kernel: Path, initrd: Path, spec: MachineSpec, descriptors: Descriptors, console: Path
) -> list[str]:
    """Return argv. The machine is minimal: no firmware menu, no display, no default device."""
    cpu = "host" if accel == "kvm" else "max,-erms"  # TCG emulates REP MOVSB byte by byte
    acceleration = "kvm" if accel == "kvm" else f"tcg,thread={'multi' if spec.cpus > 1 else 'single'},tb-size=64"
    machine = "pc,vmport=off,hpet=off"
    arguments = [
        program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-name", f"vch-{spec.id[:12]}",
    ]  # fmt: skip
    if descriptors.memory >= 0:
        machine += ",memory-backend=ram"
        share = "on" if descriptors.is_template else "off"
        arguments += [
            "-object", f"memory-backend-file,id=ram,size={spec.memory_mib}M,mem-path=/proc/self/fd/{descriptors.memory},"
            f"share={share}",
        ]  # fmt: skip
    if descriptors.is_clone:
        # Which state, it is told by its monitor.
        arguments += ["-incoming", "defer"]
    arguments += [
        "-machine", machine, "-accel", acceleration, "-cpu", cpu, "-smp", str(spec.cpus), "-m", f"{spec.memory_mib}M",
        "-kernel", str(kernel), "-initrd", str(initrd), "-append", KERNEL_ARGUMENTS,
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-chardev", f"file,id=console,path={console}", "-device", "isa-serial,chardev=console",
        "-chardev", f"socket,id=monitor,fd={descriptors.monitor},server=on,wait=off",
        "-mon", "chardev=monitor,mode=control",
        "-device", "virtio-serial-pci,max_ports=2",
        "-chardev", f"socket,id=tether,fd={descriptors.channel},server=on,wait=off",
        "-device", "virtserialport,chardev=tether,name=tether",
        "-device", "virtio-rng-pci",
        # Tells a restored kernel that it is another one now: it makes its random numbers anew (VMGENID).
        "-device", "vmgenid,guid=auto",
        "-device", "virtio-scsi-pci,id=scsi",
    ]  # fmt: skip
    slotted = descriptors.memory >= 0
    for number, (disk, fd) in enumerate(zip(spec.disks, descriptors.disks, strict=True)):
        arguments += ["-add-fd", f"fd={fd},set={number + 1}"]
        arguments += _disk(number, file_node(number), disk.read_only, slotted)
    if slotted:
        for number in range(len(spec.disks), SLOTS):
            arguments += _disk(number, _EMPTY, slot_is_read_only(number), slotted)
    if spec.card is not None:
        arguments += _card(spec.card)
    return arguments


_EMPTY: Node = {"driver": "null-co", "size": SLOT_BYTES, "read-zeroes": True}


def slot_is_read_only(number: int) -> bool:
    """The first slot is for what a machine writes; a disk cannot change that while its guest has it."""
    return number > 0


def file_node(number: int) -> Node:
    """The file behind disk `number`, given to QEMU as descriptor set number + 1."""
    return {"driver": "file", "filename": f"/dev/fdset/{number + 1}", "locking": "off"}


def disk_node(number: int, file: Node | str, read_only: bool, slotted: bool) -> Node:
    """What the guest's disk `number` reads from: the node `file`, or the node of that name."""
    node: Node = {"driver": "raw", "node-name": f"disk{number}", "file": file, "read-only": read_only}
    if not read_only:
        node |= {"discard": "unmap", "detect-zeroes": "unmap"}
    if slotted:
        node["size"] = SLOT_BYTES
    return node


def backing_node(number: int, node: Node, read_only: bool, generation: int) -> Node:
    """`node` under a name of its own; what is put behind a disk later has a higher generation."""
    mode: Node = {"read-only": True} if read_only else {"read-only": False, "discard": "unmap"}
    return {**node, **mode, "node-name": f"disk{number}-{generation}"}


def _disk(number: int, backing: Node, read_only: bool, slotted: bool) -> list[str]:
    backing = backing_node(number, backing, read_only, 0)
    return [
        "-blockdev", json.dumps(backing),
        "-blockdev", json.dumps(disk_node(number, str(backing["node-name"]), read_only, slotted)),
        "-device", f"scsi-hd,drive=disk{number},bus=scsi.0,channel=0,scsi-id=0,lun={number}",
    ]  # fmt: skip


def _card(card: Card) -> list[str]:
    return [
        "-netdev", f"user,id=net,ipv6=off,net={card.network},host={card.gateway},dns={card.dns}",
        "-device", f"virtio-net-pci,netdev=net,mac={card.mac},romfile=",
    ]  # fmt: skip
