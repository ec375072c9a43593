"""A machine's saved state in a folder: `state` (devices and memory, QEMU's migration stream), `disk0`... (the writable disks), and
`manifest.json` with their digests, which is written last. All functions but `writing` and `fingerprint` block.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import MachineSpec
from appliance.hypervisor.qemu.command import BLANK_MAC, Descriptors, command, saved_origin
from appliance.hypervisor.qemu.files import check_owner, copy_sparse
from appliance.hypervisor.qemu.slots import luns_of

STATE = "state"
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """`facts` is the fingerprint of the machine, `slotted` and `modules` are those of its record."""

    facts: str
    slotted: bool
    digests: dict[str, str]
    modules: bool = True


def check_savable(spec: MachineSpec) -> None:
    """HypervisorError names the device of a machine whose state cannot be saved, and so cannot be continued either."""
    if spec.shares or spec.more_shares:
        raise HypervisorError(
            "the state of a machine with volumes or host paths cannot be saved: virtiofsd cannot save its state"
        )
    if spec.pci_devices:
        raise HypervisorError(f"the state of a machine with the PCI device {spec.pci_devices[0]} cannot be saved")


def fingerprint(accel: str, facts: tuple[str, str], spec: MachineSpec, slotted: bool, *, modules: bool = True) -> str:
    """A digest of everything that must be equal for a state to fit a machine.

    `facts` are QEMU's version and the digest of the guest. The devices are those of the machine's command line.
    """
    # The state holds the MAC addresses, and the guest gets new ones.
    nic, *more = (replace(nic.kind, mac=BLANK_MAC) if nic is not None else None for nic in (spec.nic, *spec.more_nics))
    shape = replace(spec, id="saved", disks=(), nic=nic, more_nics=tuple(more))
    none = Descriptors(0, 0, ())
    origin = saved_origin(slotted, modules)
    line = command("qemu", accel, Path("kernel"), Path("initrd"), shape, origin, none, Path("console"))
    luns = ",".join(map(str, luns_of(spec.disks, slotted=slotted)))
    return hashlib.sha256("\0".join([*facts, luns, *line]).encode()).hexdigest()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[int]:
    """The descriptor of a new state file."""
    fd = os.open(folder / STATE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def finish(folder: Path, state: int, disks: list[Path], facts: str, slotted: bool, modules: bool) -> None:
    """Add copies of the disks and the manifest to a written state, and flush all files. OSError when the disk is full."""
    digests = {STATE: copy_sparse(state, None)}
    os.fsync(state)
    for number, disk in enumerate(disks):
        digests[f"disk{number}"] = _copy(disk, folder / f"disk{number}")
    text = json.dumps({"facts": facts, "slotted": slotted, "modules": modules, "digests": digests})
    with open(folder / _MANIFEST, "x") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _copy(source: Path, target: Path) -> str:
    """Copy a file to a new file, holes as holes; return the digest."""
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            digest = copy_sparse(reading, writing)
            os.fsync(writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)
    return digest


def verify(folder: Path) -> Manifest:
    """Return the manifest. HypervisorError when a file has changed since it was written, or another user could have written it."""
    try:
        check_owner(folder)
        raw = json.loads((folder / _MANIFEST).read_bytes())
        modules = bool(raw.get("modules", False))
        manifest = Manifest(str(raw["facts"]), bool(raw["slotted"]), dict(raw["digests"]), modules)
        for name, digest in manifest.digests.items():
            if name != STATE and not name.removeprefix("disk").isdigit():
                raise ValueError(f"{name} does not belong to a saved state")
            fd = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if copy_sparse(fd, None) != digest:
                    raise ValueError(f"{name} has changed since it was saved")
            finally:
                os.close(fd)
        if STATE not in manifest.digests:
            raise ValueError("the state file is missing")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HypervisorError(f"the saved state is damaged: {error}") from error
    return manifest


def copy_disks(folder: Path, targets: list[Path]) -> None:
    """Copy the saved disks to the files that the machine will write to."""
    try:
        for number, target in enumerate(targets):
            _copy(folder / f"disk{number}", target)
    except OSError as error:
        raise HypervisorError(f"the saved disks cannot be copied: {error}") from error
