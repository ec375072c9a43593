"""The whole state of a machine in a folder: `state` (devices and memory, QEMU's migration stream), `disk0`... (what it writes
to), `manifest.json` with their digests, which is written last. All but `writing` blocks."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import HypervisorError
from appliance.hypervisor.qemu.files import check_owner, copy_sparse

STATE = "state"
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    facts: str
    slotted: bool
    digests: dict[str, str]


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[int]:
    """The descriptor of a new state file."""
    fd = os.open(folder / STATE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def finish(folder: Path, state: int, disks: list[Path], facts: str, slotted: bool) -> None:
    """Add copies of the disks and the manifest to a written state, and have all of it on disk. OSError when that is full."""
    digests = {STATE: copy_sparse(state, None)}
    os.fsync(state)
    for number, disk in enumerate(disks):
        digests[f"disk{number}"] = _copy(disk, folder / f"disk{number}")
    text = json.dumps({"facts": facts, "slotted": slotted, "digests": digests})
    with open(folder / _MANIFEST, "x") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _copy(source: Path, target: Path) -> str:
    """Copy a file to a new one, holes as holes; its digest."""
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
    """The manifest, when everything is as it was written, and by us. HypervisorError says what is not."""
    try:
        check_owner(folder)
        raw = json.loads((folder / _MANIFEST).read_bytes())
        manifest = Manifest(str(raw["facts"]), bool(raw["slotted"]), dict(raw["digests"]))
        for name, digest in manifest.digests.items():
            if name != STATE and not name.removeprefix("disk").isdigit():
                raise ValueError(f"{name} does not belong to it")
            fd = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if copy_sparse(fd, None) != digest:
                    raise ValueError(f"{name} has changed since it was saved")
            finally:
                os.close(fd)
        if STATE not in manifest.digests:
            raise ValueError("its state is missing")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HypervisorError(f"it is damaged: {error}") from error
    return manifest


def copy_disks(folder: Path, targets: list[Path]) -> None:
    """Copy the saved disks to where the machine will write to them."""
    try:
        for number, target in enumerate(targets):
            _copy(folder / f"disk{number}", target)
    except OSError as error:
        raise HypervisorError(f"its disks cannot be copied: {error}") from error
