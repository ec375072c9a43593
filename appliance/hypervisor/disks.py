"""Disks that machines write to: ext4, thin. The contract, and disks that are files of this host."""

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from appliance.errors import Unavailable
from appliance.store.sparse import copy_holes


@dataclass(frozen=True, slots=True)
class DiskKind:
    """How large a disk is, in bytes, and mke2fs's options for its file system."""

    size: int
    options: tuple[str, ...]


# A container's own.
SCRATCH = DiskKind(
    10 << 30,
    (
        "-O",
        "^resize_inode",
        "-J",
        "size=16",
        "-m",
        "0",
        "-i",
        "65536",
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1,assume_storage_prezeroed=1",
    ),
)
VOLUME_OPTIONS = ("-O", "^resize_inode", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1")


class Disks(ABC):
    """Each disk is known by a path, whose folder and name no other has; a file is there only if machines' disks are files here.

    `stores` are names of further places for disks: one whose name is NAME@STORE is made there.
    """

    stores: Collection[str] = ()

    @abstractmethod
    async def create(self, path: Path, kind: DiskKind) -> None:
        """Make one. Unavailable or HypervisorError says why it cannot be."""

    @abstractmethod
    async def remove(self, path: Path) -> None:
        """One that is not there is no error."""

    @abstractmethod
    async def used(self, path: Path) -> int:
        """Bytes that it takes where it is kept; 0 for one that is not there."""

    @abstractmethod
    async def forget(self, path: Path) -> None:
        """A file that machines only read is gone: what was made of it elsewhere goes too."""

    @abstractmethod
    async def inherited(self) -> list[tuple[str, str]]:
        """Of volumes that somebody before us has left here: the name, and the store that it is in, "" for the usual one."""

    @abstractmethod
    async def sweep(self, known: Collection[Path], files: Collection[Path], stacks: Iterable[Sequence[Path]]) -> None:
        """Remove all but these, and what was made of other files than these: what was left by a daemon that was killed.

        `stacks` are the files that machines have together, each image's.
        """


class LocalDisks(Disks):
    """Files, each in a folder of its own that its owner makes and sweeps. The disk for a container is made once and copied."""

    def __init__(self, root: Path) -> None:
        self._blank = root / "blank.ext4"

    async def prepare(self) -> None:
        """Make the disk that others are copies of, unless it is there."""
        if self._blank.exists():
            return
        partial = self._blank.with_suffix(".part")
        partial.unlink(missing_ok=True)
        await _make(partial, SCRATCH)
        partial.rename(self._blank)

    async def create(self, path: Path, kind: DiskKind) -> None:
        """See Disks."""
        if kind == SCRATCH:
            self.copy_blank(path)
            return
        partial = path.with_suffix(".part")
        await _make(partial, kind)
        partial.rename(path)

    def copy_blank(self, path: Path) -> None:
        """A container's own disk, holes as holes. FEASIBILITY: 0.25 ms and 168 KiB each."""
        source = os.open(self._blank, os.O_RDONLY | os.O_CLOEXEC)
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            copy_holes(source, out)
        finally:
            os.close(source)
            os.close(out)

    async def remove(self, path: Path) -> None:
        """See Disks."""
        path.unlink(missing_ok=True)

    async def used(self, path: Path) -> int:
        """See Disks."""
        try:
            return path.stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    async def forget(self, path: Path) -> None:
        """See Disks: machines read the file itself."""

    async def inherited(self) -> list[tuple[str, str]]:
        """See Disks: here a volume is known by its record."""
        return []

    async def sweep(self, known: Collection[Path], files: Collection[Path], stacks: Iterable[Sequence[Path]]) -> None:
        """See Disks: their owners do it."""


async def _make(path: Path, kind: DiskKind) -> None:
    with open(path, "wb") as file:
        file.truncate(kind.size)
    command = ["mke2fs", "-q", "-F", "-t", "ext4", *kind.options, str(path)]
    try:
        await trio.run_process(command, capture_stderr=True, capture_stdout=True)
    except OSError as error:
        raise Unavailable(f"mke2fs (Debian: e2fsprogs): {error}") from error
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"mke2fs: {error.stderr.decode('utf-8', 'replace').strip()}") from error
