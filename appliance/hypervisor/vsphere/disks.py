"""Disks that machines write to, on a datastore: thin, blank when they are made, and each in the machine that needs it now.

vSphere lets nobody write a part of a disk from outside, so that the file system is made by the first guest that has the disk.
"""

import hashlib
import re
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from appliance.errors import HypervisorError
from appliance.hypervisor.disks import DiskKind, Disks
from appliance.hypervisor.vsphere.datastore import Datastore
from appliance.hypervisor.vsphere.stacks import name_of_stack, size_of_stack, uppermost, write_stack
from appliance.hypervisor.vsphere.vmdk import flat_name

FOLDER = "disks"
# Layers of images, that all machines share.
_LAYERS = "layers"
_LONGEST = 150
# As `file_of` makes of a volume's path: its name, and its store's.
_VOLUME = re.compile(r"(.+)\.disk(?:@([a-zA-Z0-9_.-]+))?\.vmdk")
# Whoever asks for many sizes asks one after the other.
_SIZES_SECONDS = 2.0


def file_of(path: Path) -> str:
    """The disk's name on the datastore: its folder's and its own; what is too long for a file system is told apart by a digest."""
    name = path.parent.name
    if len(name) > _LONGEST:
        name = f"{name[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return f"{name}.{path.stem}.vmdk"


def is_volume(name: str) -> bool:
    """Whether a disk of that name is a volume's; else it is a container's own."""
    return _VOLUME.fullmatch(name) is not None


class DatastoreDisks(Disks):
    """Disks on a datastore, and on those of `others`, by the names of volume stores."""

    def __init__(self, datastore: Datastore, others: Mapping[str, Datastore], new: Collection[Datastore] = ()) -> None:
        """`new` are those that were nobody's until now."""
        self._datastore = datastore
        self._new = new
        self._others = others
        self.stores = tuple(others)
        # By path of the folder: the sizes of what is in it, until when they are fresh enough.
        # What layers share disks, by the disks' names.
        self._stacks: dict[str, frozenset[str]] = {}
        self._sizes: dict[str, tuple[dict[str, int], float]] = {}

    def _store_of(self, path: Path) -> Datastore:
        _, at, name = path.stem.partition("@")
        if not at:
            return self._datastore
        if name not in self._others:
            raise HypervisorError(f"there is no volume store {name} (--volume-store)")
        return self._others[name]

    def folders(self) -> tuple[str, ...]:
        """Where they all are: [datastore] folder/."""
        return tuple(store.path(f"{FOLDER}/") for store in (self._datastore, *self._others.values()))

    def place(self, path: Path) -> str:
        """As vSphere's calls take it: [datastore] folder/name.vmdk."""
        return self._store_of(path).path(f"{FOLDER}/{file_of(path)}")

    async def create(self, path: Path, kind: DiskKind) -> None:
        """See Disks."""
        self._sizes.clear()
        await self._store_of(path).create_disk(FOLDER, file_of(path), kind.size)

    async def remove(self, path: Path) -> None:
        """See Disks."""
        self._sizes.clear()
        await self._store_of(path).delete_disk(self.place(path))

    async def used(self, path: Path) -> int:
        """See Disks: as the datastore tells it, of some moments ago."""
        store = self._store_of(path)
        key = store.path(FOLDER)
        sizes, until = self._sizes.get(key, ({}, -1.0))
        if trio.current_time() > until:
            sizes = await store.list_files(FOLDER)
            self._sizes[key] = sizes, trio.current_time() + _SIZES_SECONDS
        name = file_of(path)
        # VMware's servers count a disk's parts under its own name, the simulator file by file.
        return sum(sizes.get(one, 0) for one in (name, flat_name(name)))

    async def shared(self, path: Path) -> str:
        """The disk of a file that machines only read, written if it is not there: [datastore] folder/name.vmdk."""
        return await self._datastore.disk_of(path, _LAYERS)

    async def stack(self, layers: Sequence[Path]) -> str:
        """A disk that has each of these files as a partition, written if it is not there: [datastore] folder/name.vmdk."""
        stem = name_of_stack(layers)
        self._stacks[stem] = frozenset(path.stem for path in layers)
        return await self._datastore.made_disk(stem, _LAYERS, size_of_stack(layers), lambda: _written(layers))

    async def forget(self, path: Path) -> None:
        """See Disks."""
        await self._datastore.drop_disk_of(path, _LAYERS)
        for stem in [stem for stem, layers in self._stacks.items() if path.stem in layers]:
            del self._stacks[stem]
            await self._datastore.drop_disk_of(Path(stem), _LAYERS)

    async def inherited(self) -> list[tuple[str, str]]:
        """See Disks."""
        found = []
        for name, store in (("", self._datastore), *self._others.items()):
            if store in self._new:
                disks = [_VOLUME.fullmatch(file) for file in await store.list_files(FOLDER)]
                found += [(disk[1], disk[2] or "") for disk in disks if disk is not None and (disk[2] or "") == name]
        return found

    async def sweep(self, known: Collection[Path], files: Collection[Path], stacks: Iterable[Sequence[Path]]) -> None:
        """See Disks."""
        for layers in map(uppermost, stacks):
            if layers:
                self._stacks[name_of_stack(layers)] = frozenset(path.stem for path in layers)
        kept = {file_of(path) for path in known}
        for store in (self._datastore, *self._others.values()):
            await _keep_only(store, FOLDER, kept)
        await _keep_only(
            self._datastore, _LAYERS, {f"{stem}.vmdk" for stem in (*(path.stem for path in files), *self._stacks)}
        )


@asynccontextmanager
async def _written(layers: Sequence[Path]) -> AsyncIterator[Path]:
    """A file with that disk, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="stack-", dir=layers[0].parent.parent) as folder:
        path = Path(folder, "stack.img")
        with open(path, "wb") as out:
            await trio.to_thread.run_sync(write_stack, layers, out)
        yield path


async def _keep_only(store: Datastore, folder: str, kept: Collection[str]) -> None:
    for name in await store.list_files(folder):
        # What is half written has the bytes only.
        whole = name.removesuffix("-flat.vmdk") + ".vmdk" if name.endswith("-flat.vmdk") else name
        if whole not in kept:
            await store.delete_disk(store.path(f"{folder}/{whole}"))
