"""Writable disks of machines: thin ext4. The contract, and an implementation as files of this host."""

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
    """The size of a disk in bytes, and mke2fs's options for its file system."""

    size: int
    options: tuple[str, ...]


# The writable disk of a container.
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
    """Each disk is identified by a path with a unique folder and name. Only `LocalDisks` has a file at that path.

    `stores` are the names of further places for disks: a disk whose name ends in @STORE is created there.
    """

    stores: Collection[str] = ()

    @abstractmethod
    async def create(self, path: Path, kind: DiskKind) -> None:
        """Create a disk. Unavailable or HypervisorError says why that fails."""

    @abstractmethod
    async def remove(self, path: Path) -> None:
        """Remove a disk. No error when the disk does not exist."""

    @abstractmethod
    async def used(self, path: Path) -> int:
        """The bytes that a disk occupies in its store; 0 when the disk does not exist."""

    @abstractmethod
    async def forget(self, path: Path) -> None:
        """The file of a read-only disk was removed: remove the copies that were made of it elsewhere."""

    @abstractmethod
    async def inherited(self) -> list[tuple[str, str]]:
        """The volumes in newly claimed stores, which an earlier appliance has left: name and store, "" for the default store."""

    @abstractmethod
    async def sweep(self, known: Collection[Path], files: Collection[Path], stacks: Iterable[Sequence[Path]]) -> None:
        """Remove the disks that are not in `known`, and copies of other files than `files`: leftovers of a daemon that was killed.

        `stacks` are the layers of each image, lowest first.
        """


class LocalDisks(Disks):
    """Disks as files, each in a folder that the disk's owner creates and removes. Disks of containers are copies of one blank disk."""

    def __init__(self, root: Path) -> None:
        self._blank = root / "blank.ext4"

    async def prepare(self) -> None:
        """Create the blank disk, unless it exists."""
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
        """Create the writable disk of a container: a sparse copy of the blank disk (0.25 ms, 168 KiB)."""
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
        """See Disks. Every volume has its record."""
        return []

    async def sweep(self, known: Collection[Path], files: Collection[Path], stacks: Iterable[Sequence[Path]]) -> None:
        """See Disks. The owners of the disks remove them."""


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
