"""QEMU's command line for a machine. Pure: descriptors are numbers that the caller passes on."""

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
        arguments += _disk(number, fd, disk.read_only, slotted)
    if slotted:
        for number in range(len(spec.disks), SLOTS):
            arguments += [
                "-blockdev", f"driver=null-co,node-name=disk{number},size={SLOT_BYTES},read-zeroes=on",
                "-device", _device(number),
            ]  # fmt: skip
    if spec.card is not None:
        arguments += _card(spec.card)
    return arguments


def _device(number: int) -> str:
    return f"scsi-hd,drive=disk{number},bus=scsi.0,channel=0,scsi-id=0,lun={number}"


def _disk(number: int, fd: int, read_only: bool, slotted: bool) -> list[str]:
    name = f"disk{number}"
    mode = "read-only=on" if read_only else "read-only=off,discard=unmap"
    size = f",size={SLOT_BYTES}" if slotted else ""
    zeroes = "" if read_only else ",detect-zeroes=unmap"
    return [
        "-add-fd", f"fd={fd},set={number + 1}",
        "-blockdev", f"driver=file,node-name={name}-file,filename=/dev/fdset/{number + 1},locking=off,{mode}",
        "-blockdev", f"driver=raw,node-name={name},file={name}-file,{mode}{zeroes}{size}",
        "-device", _device(number),
    ]  # fmt: skip


def _card(card: Card) -> list[str]:
    return [
        "-netdev", f"user,id=net,ipv6=off,net={card.network},host={card.gateway},dns={card.dns}",
        "-device", f"virtio-net-pci,netdev=net,mac={card.mac},romfile=",
    ]  # fmt: skip
