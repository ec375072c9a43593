"""Volumes on the disk of this host: `volumes/NAME/_data`, a directory, or `volumes/NAME/disk.ext4`, a disk.

Any number of running containers, and programs of the host, can use a directory at the same time, as with Docker. virtiofs serves it, and
virtiofs has no quota. So a volume with a size is a thin disk instead, which one machine at a time can have.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec
import trio

from appliance.config import parse_size
from appliance.container.mounts import VOLUME_NAME, check_volume_name
from appliance.errors import InvalidParameter, Unavailable, VchError
from appliance.hypervisor import VOLUME_OPTIONS, DiskKind, Disks
from appliance.volume.nfs import NfsStore

log = logging.getLogger(__name__)

DIRECTORY, DISK, BIND, TMPFS, NFS = "directory", "disk", "bind", "tmpfs", "nfs"
# The size of a disk when volumes cannot be directories and the client gives no size.
_DISK_BYTES = 10 << 30
_LEAST_DISK = 8 << 20
# The option that names the volume store.
_STORE = "VolumeStore"


class VolumeRecord(msgspec.Struct):
    """One volume. `created`: unix ns. `kind`: DIRECTORY, DISK, BIND, TMPFS or NFS. `size`: bytes of a disk.

    `device`: path of a bind, SERVER:/PATH of an NFS volume. `flags`: options for mount(8). `owner`: the scope of the principal that
    made the volume, "" for a principal that sees all objects. `role`: see container/daemon_objects.py.
    """

    name: str
    created: int
    kind: str
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False
    size: int = 0
    device: str = ""
    flags: str = ""
    owner: str = ""
    role: str = ""


class VolumeStore:
    """The volumes below `root`. `shared`: machines can share directories of the host; if not, volumes are `disks`.

    `nfs_stores`: NFS stores by name.
    """

    def __init__(
        self, root: Path, disks: Disks, *, shared: bool, nfs_stores: Mapping[str, NfsStore] | None = None
    ) -> None:
        self._disks = disks
        self._nfs_stores = dict(nfs_stores or {})
        self._root = root / "volumes"
        self._root.mkdir(exist_ok=True, mode=0o701)
        self.shared = shared

    def decide_kind(self, record: VolumeRecord) -> None:
        """Set `kind` and what belongs to it by the options of a volume. InvalidParameter with Docker's text for wrong options."""
        check_volume_name(record.name)
        options = record.options
        unknown = set(options) - {"type", "device", "o", "size"} - ({_STORE} if self._stores else set())
        if unknown:
            raise InvalidParameter(f'create {record.name}: invalid option: "{sorted(unknown)[0]}"')
        store = options.get(_STORE, "")
        if store and store not in self._stores:
            raise InvalidParameter(
                f'create {record.name}: no volume store named "{store}"; choose one of {", ".join(self._stores)}'
            )
        if store in self._nfs_stores:
            if others := sorted(set(options) - {_STORE}):
                raise InvalidParameter(
                    f"create {record.name}: volume store {store} is on an NFS server and does not take the option {others[0]}"
                )
            self._place_on_server(record, self._nfs_stores[store])
            return
        kind = options.get("type", "")
        flags = options.get("o", "").split(",") if options.get("o") else []
        size = options.get("size") or next(
            (flag[5:] for flag in flags if flag.startswith("size=") and kind != "tmpfs"), ""
        )
        if kind == "tmpfs":
            record.kind, record.flags = TMPFS, options.get("o", "")
        elif kind in ("none", "bind", "") and options.get("device"):
            if not {"bind", "rbind"} & set(flags):
                raise InvalidParameter(f"create {record.name}: a device needs o=bind, or type=tmpfs")
            if not options["device"].startswith("/"):
                raise InvalidParameter(f"create {record.name}: device {options['device']} is not an absolute path")
            if not self.shared:
                raise InvalidParameter(f"create {record.name}: machines cannot share paths of this host")
            record.kind, record.device, record.flags = BIND, options["device"], options.get("o", "")
        elif kind in ("nfs", "nfs4"):
            self._decide_nfs(record, flags)
        elif kind:
            raise InvalidParameter(
                f"create {record.name}: type={kind} is not supported; choose nfs, tmpfs, or none with o=bind"
            )
        elif flags and not size:
            raise InvalidParameter(f"create {record.name}: missing device in volume options")
        elif size or not self.shared:
            record.kind, record.size = DISK, parse_size(size) if size else _DISK_BYTES
            if record.size < _LEAST_DISK:
                raise InvalidParameter(f"create {record.name}: invalid size: '{size}': the smallest is 8 MiB")
        else:
            record.kind = DIRECTORY

    @property
    def _stores(self) -> list[str]:
        return sorted((*self._disks.stores, *self._nfs_stores))

    @staticmethod
    def _place_on_server(record: VolumeRecord, store: NfsStore) -> None:
        record.kind, record.device, record.flags = NFS, store.device(record.name), "vers=4.2"

    def _store_of(self, record: VolumeRecord) -> NfsStore | None:
        """The NFS store that holds a volume, or None."""
        return self._nfs_stores.get(record.options.get(_STORE, ""))

    @property
    def nfs_store_names(self) -> list[str]:
        """The names of the stores on NFS servers."""
        return list(self._nfs_stores)

    async def list_on_server(self, store: str) -> list[tuple[str, str]]:
        """The volumes in a store on a server, each with the store. Unavailable when the server does not answer."""
        return [(name, store) for name in await self._nfs_stores[store].recover() if VOLUME_NAME.fullmatch(name)]

    @staticmethod
    def _decide_nfs(record: VolumeRecord, flags: list[str]) -> None:
        host, _, path = record.options.get("device", "").rpartition(":")
        named = [flag[5:] for flag in flags if flag.startswith("addr=")]
        server = (named or [host])[0].strip("[]")
        if not path.startswith("/") or not server:
            raise InvalidParameter(f"create {record.name}: an NFS volume needs device=:/path and o=addr=SERVER")
        versions = [flag.partition("=")[2] for flag in flags if flag.startswith(("nfsvers=", "vers="))]
        if any(not version.startswith("4") for version in versions):
            raise InvalidParameter(f"create {record.name}: NFS version {versions[0]} is not supported; use 4 or later")
        rest = [flag for flag in flags if not flag.startswith(("addr=", "nfsvers=", "vers=", "clientaddr="))]
        record.kind, record.device = NFS, f"{server}:{path}"
        record.flags = ",".join([f"vers={versions[0] if versions else '4.2'}", *rest])

    def record_existing(self, name: str, store: str, created: int) -> VolumeRecord:
        """The record of a volume whose disk or directory exists already. The disk has its own size."""
        record = VolumeRecord(name, created, DISK, options={_STORE: store} if store else {})
        if store in self._nfs_stores:
            self._place_on_server(record, self._nfs_stores[store])
        self.folder(record).mkdir(exist_ok=True, mode=0o701)
        return record

    def folder(self, record: VolumeRecord) -> Path:
        return self._root / record.name

    def data(self, record: VolumeRecord) -> Path:
        """Docker's mount point of a volume."""
        return self.folder(record) / "_data"

    def disk(self, record: VolumeRecord) -> Path:
        """The path by which `disks` knows the disk of a volume."""
        store = record.options.get(_STORE)
        return self.folder(record) / (f"disk@{store}.ext4" if store else "disk.ext4")

    async def create(self, record: VolumeRecord) -> None:
        """Make the directory or the disk of a volume. Unavailable or HypervisorError when there is no room."""
        folder = self.folder(record)
        try:
            folder.mkdir(exist_ok=True, mode=0o701)
            if record.kind == DIRECTORY:
                self.data(record).mkdir(exist_ok=True)
                # A container's processes need not be root.
                self.data(record).chmod(0o755)
            elif (nfs_store := self._store_of(record)) is not None:
                await nfs_store.create(record.name)
            elif record.kind == DISK:
                await self._disks.create(self.disk(record), DiskKind(_whole(record.size), VOLUME_OPTIONS))
        except (OSError, VchError) as error:
            await self.remove(record)
            kind = type(error) if isinstance(error, VchError) else Unavailable
            raise kind(f"create {record.name}: {error}") from error

    async def remove_on_server(self, record: VolumeRecord) -> None:
        """Remove the directory on an NFS server, if there is one. Unavailable when the server does not answer: the volume stays."""
        if (nfs_store := self._store_of(record)) is not None:
            await nfs_store.remove(record.name)

    async def remove(self, record: VolumeRecord) -> None:
        """Remove the files of a volume. The next start removes what cannot be removed now."""
        if record.kind == DISK:
            try:
                await self._disks.remove(self.disk(record))
            except VchError as error:
                log.warning("cannot remove the disk of volume %s, the next start tries again: %s", record.name, error)
        await trio.to_thread.run_sync(partial(shutil.rmtree, self.folder(record), ignore_errors=True))

    def sweep(self, known: set[str]) -> None:
        """Remove folders without a volume: a volume was half made or half removed. Blocking."""
        for folder in self._root.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    async def used(self, record: VolumeRecord) -> int:
        """Bytes that a volume takes; -1 if its files are not on this host."""
        if record.kind in (BIND, TMPFS, NFS):
            return -1
        if record.kind == DISK:
            return await self._disks.used(self.disk(record))
        return await trio.to_thread.run_sync(self._used_by_files, record)

    def _used_by_files(self, record: VolumeRecord) -> int:
        total = 0
        for folder, _, names in os.walk(self.folder(record), onerror=lambda _: None):
            for name in names:
                try:
                    total += os.lstat(os.path.join(folder, name)).st_blocks * 512
                except OSError:
                    continue
        return total


def _whole(size: int) -> int:
    """Round up to whole MiB: disks have no other sizes."""
    return -(-size >> 20) << 20
