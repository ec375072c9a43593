"""Disks on datastores: writable disks, which are thin and begin blank, and the read-only disks of layers, which VMs share.

vSphere has no call that writes a part of a disk, so the first guest that has a writable disk makes its file system.
"""

import hashlib
import re
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from appliance.errors import HypervisorError, one_by_itself
from appliance.hypervisor.disks import DiskKind, Disks
from appliance.hypervisor.driver import Disk
from appliance.hypervisor.vsphere.datastore import Datastore
from appliance.hypervisor.vsphere.spec import PlacedDisk, address_of
from appliance.hypervisor.vsphere.stacks import name_of_stack, size_of_stack, slots_of, uppermost, write_stack
from appliance.hypervisor.vsphere.vmdk import flat_name

FOLDER = "disks"
# The folder of the disks of layers, which all VMs share.
_LAYERS = "layers"
_LONGEST = 150
# The file name that `file_of` makes of a volume's path: the volume's name and its store's.
_VOLUME = re.compile(r"(.+)\.disk(?:@([a-zA-Z0-9_.-]+))?\.vmdk")
# How long the sizes of a folder's files stay fresh: a caller that wants many sizes asks for one after the other.
_SIZES_SECONDS = 2.0


def file_of(path: Path) -> str:
    """The name of a disk's file on the datastore: the names of folder and file. A digest stands for the end of a long name."""
    name = path.parent.name
    if len(name) > _LONGEST:
        name = f"{name[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return f"{name}.{path.stem}.vmdk"


def is_volume(name: str) -> bool:
    """Whether the disk of that file name is a volume; otherwise it is a container's writable disk."""
    return _VOLUME.fullmatch(name) is not None


class DatastoreDisks(Disks):
    """Disks on the image store's datastore, and on the datastores of volume stores (`others`, by the store's name)."""

    def __init__(self, datastore: Datastore, others: Mapping[str, Datastore], new: Collection[Datastore] = ()) -> None:
        """`new` are the datastores that this appliance has claimed just now."""
        self._datastore = datastore
        self._new = new
        self._others = others
        self.stores = tuple(others)
        # The layers of each stack, by the name of the stack's disk.
        self._stacks: dict[str, frozenset[str]] = {}
        # By folder: the sizes of its files, and until when they are fresh.
        self._sizes: dict[str, tuple[dict[str, int], float]] = {}

    def _store_of(self, path: Path) -> Datastore:
        _, at, name = path.stem.partition("@")
        if not at:
            return self._datastore
        if name not in self._others:
            raise HypervisorError(f"no volume store has the name {name} (--volume-store)")
        return self._others[name]

    def folders(self) -> tuple[str, ...]:
        """The folders that hold writable disks: "[datastore] folder/"."""
        return tuple(store.path(f"{FOLDER}/") for store in (self._datastore, *self._others.values()))

    def place(self, path: Path) -> str:
        """The path of a writable disk for vSphere's calls: "[datastore] folder/name.vmdk"."""
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
        """See Disks. The size may be some moments old."""
        store = self._store_of(path)
        key = store.path(FOLDER)
        sizes, until = self._sizes.get(key, ({}, -1.0))
        if trio.current_time() > until:
            sizes = await store.list_files(FOLDER)
            self._sizes[key] = sizes, trio.current_time() + _SIZES_SECONDS
        name = file_of(path)
        # VMware's servers count both files of a disk under the disk's name; VMware's simulator counts each file.
        return sum(sizes.get(one, 0) for one in (name, flat_name(name)))

    async def shared(self, path: Path) -> str:
        """The disk of a layer's file, written if it does not exist: "[datastore] folder/name.vmdk"."""
        return await self._datastore.disk_of(path, _LAYERS)

    async def stack(self, layers: Sequence[Path]) -> str:
        """The disk with a partition for each of these layers, written if it does not exist: "[datastore] folder/name.vmdk"."""
        stem = name_of_stack(layers)
        self._stacks[stem] = frozenset(path.stem for path in layers)
        return await self._datastore.made_disk(stem, _LAYERS, size_of_stack(layers), lambda: _written(layers))

    async def place_each(self, disks: Sequence[Disk]) -> list[PlacedDisk]:
        """Put each of these disks on the datastores, and say where it is. HypervisorError when a layer's file does not exist."""
        placed: dict[int, PlacedDisk] = {}

        async def place(number: int, disk: Disk) -> None:
            try:
                placed[number] = await self._placed(disk)
            except OSError as error:
                raise HypervisorError(f"the disk cannot be read: {error}") from error

        with one_by_itself():
            async with trio.open_nursery() as nursery:
                for number, disk in enumerate(disks):
                    nursery.start_soon(place, number, disk)
        return [placed[number] for number in range(len(placed))]

    async def _placed(self, disk: Disk) -> PlacedDisk:
        if disk.read_only:
            return PlacedDisk(await self.shared(disk.path), disk.path.stat().st_size, True)
        return PlacedDisk(self.place(disk.path), 0, False)

    async def place_all(self, disks: Sequence[Disk]) -> list[PlacedDisk]:
        """Put the disks of a machine's spec on the datastores, and say where each is. A stack is one disk."""
        placed: dict[int, PlacedDisk] = {}
        stacked = uppermost([disk.path for disk in disks if disk.read_only])

        async def place(number: int, disk: Disk, partition: int) -> None:
            if partition:
                placed[number] = PlacedDisk(await self.stack(stacked), size_of_stack(stacked), True)
            else:
                placed[number] = await self._placed(disk)

        with one_by_itself():
            async with trio.open_nursery() as nursery:
                for slot, disk in zip(slots_of(disks), disks, strict=True):
                    # Refuses more disks than a VM can have.
                    address_of(slot.disk)
                    if slot.partition <= 1:
                        nursery.start_soon(place, slot.disk, disk, slot.partition)
        return [placed[number] for number in range(len(placed))]

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
        wanted = {file_of(path) for path in known}
        for store in (self._datastore, *self._others.values()):
            await _remove_others(store, FOLDER, wanted)
        await _remove_others(
            self._datastore, _LAYERS, {f"{stem}.vmdk" for stem in (*(path.stem for path in files), *self._stacks)}
        )


@asynccontextmanager
async def _written(layers: Sequence[Path]) -> AsyncIterator[Path]:
    """A temporary file that holds the stack's disk inside the block."""
    with tempfile.TemporaryDirectory(prefix="stack-", dir=layers[0].parent.parent) as folder:
        path = Path(folder, "stack.img")
        with open(path, "wb") as out:
            await trio.to_thread.run_sync(write_stack, layers, out)
        yield path


async def _remove_others(store: Datastore, folder: str, wanted: Collection[str]) -> None:
    """Remove the disks of a folder whose names are not in `wanted`."""
    for name in await store.list_files(folder):
        # A disk that was written in part has a flat file only.
        whole = name.removesuffix("-flat.vmdk") + ".vmdk" if name.endswith("-flat.vmdk") else name
        if whole not in wanted:
            await store.delete_disk(store.path(f"{folder}/{whole}"))
