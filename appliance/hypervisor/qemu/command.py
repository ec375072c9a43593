"""QEMU's command line for a machine. Pure: descriptors are numbers that the caller passes on."""

from dataclasses import dataclass
from pathlib import Path

from appliance.hypervisor.driver import MachineSpec

# Nothing of a container is in here: what it needs comes over the channel, so that a restored machine can become any.
# nokaslr and notests save a third of the kernel's boot without KVM; loglevel keeps the 16550 quiet but for real trouble.
KERNEL_ARGUMENTS = "console=ttyS0 quiet loglevel=3 panic=-1 nokaslr cryptomgr.notests random.trust_cpu=on"


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Open files passed to QEMU: listening sockets of the monitor and the tether's channel, the disks in order."""

    monitor: int
    channel: int
    disks: tuple[int, ...]


def command(
    program: str, accel: str, kernel: Path, initrd: Path, spec: MachineSpec, descriptors: Descriptors, console: Path
) -> list[str]:
    """Return argv. The machine is minimal: no firmware menu, no display, no default device."""
    cpu = "host" if accel == "kvm" else "max,-erms"  # TCG emulates REP MOVSB byte by byte
    acceleration = "kvm" if accel == "kvm" else f"tcg,thread={'multi' if spec.cpus > 1 else 'single'},tb-size=64"
    arguments = [
        program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-name", f"vch-{spec.id[:12]}",
        "-machine", "pc,vmport=off,hpet=off", "-accel", acceleration, "-cpu", cpu,
        "-smp", str(spec.cpus), "-m", f"{spec.memory_mib}M",
        "-kernel", str(kernel), "-initrd", str(initrd), "-append", KERNEL_ARGUMENTS,
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-chardev", f"file,id=console,path={console}", "-device", "isa-serial,chardev=console",
        "-chardev", f"socket,id=monitor,fd={descriptors.monitor},server=on,wait=off",
        "-mon", "chardev=monitor,mode=control",
        "-device", "virtio-serial-pci,max_ports=2",
        "-chardev", f"socket,id=tether,fd={descriptors.channel},server=on,wait=off",
        "-device", "virtserialport,chardev=tether,name=tether",
        "-device", "virtio-rng-pci",
        "-device", "virtio-scsi-pci,id=scsi",
    ]  # fmt: skip
    for number, (disk, fd) in enumerate(zip(spec.disks, descriptors.disks, strict=True)):
        name = f"disk{number}"
        mode = "read-only=on" if disk.read_only else "read-only=off,discard=unmap,detect-zeroes=unmap"
        arguments += [
            "-add-fd", f"fd={fd},set={number + 1}",
            "-blockdev", f"driver=file,node-name={name}-file,filename=/dev/fdset/{number + 1},locking=off,"
            f"{'read-only=on' if disk.read_only else 'read-only=off,discard=unmap'}",
            "-blockdev", f"driver=raw,node-name={name},file={name}-file,{mode}",
            "-device", f"scsi-hd,drive={name},bus=scsi.0,channel=0,scsi-id=0,lun={number}",
        ]  # fmt: skip
    if spec.card is not None:
        card = spec.card
        arguments += [
            "-netdev", f"user,id=net,ipv6=off,net={card.network},host={card.gateway},dns={card.dns}",
            "-device", f"virtio-net-pci,netdev=net,mac={card.mac},romfile=",
        ]  # fmt: skip
    return arguments
