"""Volumes: create, find, remove. And mounts: which volumes and host paths a container has, and what its machine needs for them."""

import logging
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import msgspec
import trio

from appliance.container.config import ContainerConfig
from appliance.container.daemon_objects import check_not_reserved
from appliance.container.event import Event
from appliance.container.host_config import HostConfig
from appliance.container.mounts import MountRecord, clean, parse_bind, parse_mount, parse_volumes_from
from appliance.container.prune_guard import PruneGuard
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.model.container import Container
from appliance.engine.model.events import EventBus
from appliance.engine.model.mount_plan import (
    MountPlan,
    PlacedMount,
    TmpfsVolume,
    nfs_volume,
    tmpfs_options,
    tmpfs_volume,
)
from appliance.engine.model.registry import ContainerRegistry
from appliance.errors import Conflict, InvalidParameter, NotFound, VchError
from appliance.guest import GuestSocket
from appliance.hypervisor import Disk, Share
from appliance.roles import sees
from appliance.store import Database
from appliance.volume.bind_source import BindSources, is_of_the_kernel
from appliance.volume.host_socket import is_socket, rights_of
from appliance.volume.store import BIND, DIRECTORY, DISK, NFS, TMPFS, VolumeRecord, VolumeStore

log = logging.getLogger(__name__)

_KIND = "volume"
# How long the start of vchd waits for the servers of volume stores, and the pause before it asks a silent server again.
_SERVED_SECONDS = 3.0
_ASK_AGAIN_SECONDS = 30.0


class Volumes:
    """All volumes, by name. Methods raise errors of `errors.py` with Docker's texts.

    `binds`: what bind mounts may name.
    """

    def __init__(
        self,
        store: VolumeStore,
        database: Database,
        events: EventBus,
        containers: ContainerRegistry,
        binds: BindSources,
    ) -> None:
        self._containers = containers
        self._store = store
        self._database = database
        self._events = events
        self.binds = binds
        self._records: dict[str, VolumeRecord] = {}
        # Name of a volume that is a disk, to the ids of the containers whose machine has it.
        self._holders: dict[str, set[str]] = {}
        self._locks: dict[str, trio.Lock] = {}
        self.pruning = PruneGuard()

    async def open(self, tasks: IsolatedTasks) -> None:
        """Load the volumes. If a server of a volume store does not answer soon, a task asks again, and the start goes on."""
        for key, value in self._database.load(_KIND).items():
            self._records[key] = msgspec.json.decode(value, type=VolumeRecord)
        await trio.to_thread.run_sync(self._store.sweep, set(self._records))
        with trio.move_on_after(_SERVED_SECONDS):
            for answered in [self._start_asking(store, tasks) for store in self._store.nfs_store_names]:
                await answered.wait()

    def _start_asking(self, store: str, tasks: IsolatedTasks) -> trio.Event:
        answered = trio.Event()
        tasks.start_soon(self._ask, store, answered)
        return answered

    async def _ask(self, store: str, answered: trio.Event) -> None:
        """Learn which volumes a server has. `answered` is set after the first answer or failure."""
        while True:
            try:
                await self.inherit(await self._store.list_on_server(store))
                return
            except VchError as error:
                log.warning("volume store %s: %s", store, error)
            finally:
                answered.set()
            await trio.sleep(_ASK_AGAIN_SECONDS)

    async def inherit(self, found: Iterable[tuple[str, str]]) -> None:
        """Record volumes that exist without a record, each given by its name and its store."""
        for name, store in found:
            if name not in self._records:
                record = self._store.record_existing(name, store, time.time_ns())
                await self._database.put(_KIND, name, msgspec.json.encode(record))
                self._records[name] = record

    def disks(self) -> list[Path]:
        """The disks of all volumes that are disks."""
        return [self._store.disk(record) for record in self._records.values() if record.kind == DISK]

    # -- finding --------------------------------------------------------------------------------------------------

    def all(self) -> list[VolumeRecord]:
        return list(self._records.values())

    def get(self, name: str) -> VolumeRecord:
        if name not in self._records:
            raise NotFound(f"get {name}: no such volume")
        return self._records[name]

    def mount_point(self, record: VolumeRecord) -> str:
        return str(self._store.data(record))

    async def used(self, record: VolumeRecord) -> int:
        """Bytes that a volume takes; -1 if its files are not on this host."""
        return await self._store.used(record)

    def users(self, name: str) -> list[str]:
        """The ids of the containers that mount a volume, running or not."""
        return [
            container.id
            for container in self._containers.all()
            if any(mount.type == "volume" and mount.name == name for mount in container.record.mounts)
        ]

    # -- create and remove ----------------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        labels: dict[str, str],
        options: dict[str, str],
        *,
        anonymous: bool = False,
        owner: str = "",
        role: str = "",
    ) -> VolumeRecord:
        """Make a volume, or return the existing volume of that name. Conflict if that has other options or belongs to another owner.

        A volume with a `role` is the daemon's own.
        """
        if not role:
            check_not_reserved(labels)
        name = name or secrets.token_hex(32)
        async with self._locks.setdefault(name, trio.Lock()):
            if name in self._records:
                known = self._records[name]
                if not sees(owner, known.owner):
                    raise Conflict(f"create {name}: volume name must be unique")
                if options and options != known.options:
                    raise Conflict(f"create {name}: volume already exists with other options")
                return known
            record = VolumeRecord(name, time.time_ns(), "", labels, options, anonymous, owner=owner, role=role)
            self._store.decide_kind(record)
            await self._store.create(record)
            await self._database.put(_KIND, name, msgspec.json.encode(record))
            self._records[name] = record
        if not role:
            self._emit("create", name, owner)
        return record

    async def remove(self, name: str, *, force: bool = False) -> None:
        if name not in self._records:
            if force:
                return
            raise NotFound(f"get {name}: no such volume")
        record = self._records[name]
        async with self._locks.setdefault(name, trio.Lock()):
            if self.get(name) is not record:
                # Removed meanwhile, and made again by somebody else.
                raise NotFound(f"get {name}: no such volume")
            users = self.users(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            await self._store.remove_on_server(record)
            # The record goes first: the next start removes files without a record.
            await self._database.remove(_KIND, name)
            del self._records[name]
            await self._store.remove(record)
        self._locks.pop(name, None)
        if not record.role:
            self._emit("destroy", name, record.owner)

    async def prune(self, wanted: Callable[[VolumeRecord], bool]) -> tuple[list[str], int]:
        """Remove the unused volumes for which `wanted` is true. Returns their names, and how many bytes are free now.

        Conflict while another prune runs.
        """
        with self.pruning.running():
            removed: list[str] = []
            space = 0
            for record in self.all():
                if record.role or self.users(record.name) or not wanted(record):
                    continue
                size = max(0, await self.used(record))
                try:
                    await self.remove(record.name)
                except (Conflict, NotFound):
                    continue  # a container uses it now, or another client has removed it
                removed.append(record.name)
                space += size
            self._events.publish(Event("volume", "prune", "", {"reclaimed": str(space)}))
            return removed, space

    def _emit(self, action: str, name: str, owner: str, **more: str) -> None:
        self._events.publish(Event("volume", action, name, {"driver": "local", **more}, owner=owner))

    # -- of containers --------------------------------------------------------------------------------------------

    async def plan(self, config: ContainerConfig, host_config: HostConfig, owner: str = "") -> list[MountRecord]:
        """Decide the mounts of an owner's new container, and make its volumes.

        InvalidParameter when a path of the host does not exist. Conflict when a volume belongs to another owner.
        """
        found: dict[str, MountRecord] = {}
        for text in host_config.volumes_from or ():
            name, read_only = parse_volumes_from(text)
            try:
                other = self._containers.get(name)
            except NotFound as error:
                # 400, as in moby: the client takes 404 for a missing image.
                raise InvalidParameter(str(error)) from error
            if not sees(owner, other.record.owner):
                raise InvalidParameter(f"No such container: {name}")
            for mount in other.record.mounts:
                # An anonymous volume stays anonymous: it goes with the last container that uses it.
                found[mount.destination] = msgspec.structs.replace(
                    mount, mode="", no_copy=True, read_only=mount.read_only or read_only
                )
        for mount in [
            *(parse_bind(text) for text in host_config.binds or ()),
            *(parse_mount(one) for one in host_config.mounts or ()),
        ]:
            found[mount.destination] = mount
        tmpfs = {clean(target) for target in host_config.tmpfs or ()}
        for target in config.volumes or ():
            destination = clean(target)
            if not destination.startswith("/") or destination == "/":
                raise InvalidParameter(f"invalid volume specification: '{target}'")
            if destination not in found and destination not in tmpfs:
                found[destination] = MountRecord("volume", destination, anonymous=True)
        made: list[str] = []
        driver = host_config.volume_driver or "local"
        try:
            for mount in found.values():
                if mount.type == "volume" and driver != "local" and mount.name not in self._records:
                    raise NotFound(f'error looking up volume plugin {driver}: plugin "{driver}" not found')
                if mount.type == "volume":
                    await self._provide(mount, made, owner)
                elif self.binds.is_api(mount, scoped=bool(owner)):
                    mount.api = True
                elif mount.type == "bind" and not is_of_the_kernel(mount):
                    self.binds.check(mount)
        except BaseException:
            with trio.CancelScope(shield=True):
                for name in made:
                    await self.remove(name, force=True)
            raise
        return list(found.values())

    async def _provide(self, mount: MountRecord, made: list[str], owner: str) -> None:
        """Make the volume of a mount, if it does not exist, and add it to `made`."""
        is_new = mount.name not in self._records
        record = await self.create(mount.name, mount.labels, mount.options, anonymous=mount.anonymous, owner=owner)
        mount.name = record.name
        if is_new:
            made.append(record.name)
        mount.source = str(self._store.data(record))

    async def discard_anonymous(self, container: Container) -> None:
        """Remove the anonymous volumes of a removed container."""
        for mount in container.record.mounts:
            if mount.type == "volume" and mount.anonymous:
                try:
                    await self.remove(mount.name, force=True)
                except Conflict:
                    continue  # another container uses it (--volumes-from)

    async def mount_plan(
        self, container: Container, neighbours: Collection[str] = (), *, for_files: bool = False
    ) -> MountPlan:
        """Decide what the container's machine needs for its mounts, and reserve disks. Raises what a failed start reports.

        Containers in the same machine, `neighbours`, may have the same disks. `for_files`: a socket that is gone is not missing.
        """
        placed, shares = list[PlacedMount](), list[Share]()
        disks, in_memory = self.disks_of(container), self.tmpfs_of(container)
        for number, mount in enumerate(container.record.mounts):
            if mount.type == "tmpfs":
                placed.append(PlacedMount(mount, tmpfs=tmpfs_options(mount)))
                continue
            if is_of_the_kernel(mount):
                placed.append(PlacedMount(mount, guest=mount.source))
                continue
            if mount.api:
                placed.append(PlacedMount(mount, socket=GuestSocket(number, *rights_of(mount.source))))
                continue
            if mount.type == "bind":
                if for_files and mount.relay and not os.path.lexists(mount.source):
                    continue
                self.binds.check(mount)
                mount.relay = is_socket(mount.source)
                if mount.relay:
                    placed.append(PlacedMount(mount, socket=GuestSocket(number, *rights_of(mount.source))))
                    continue
                path = Path(mount.source)
            else:
                record = self.get(mount.name)
                if record.kind == TMPFS:
                    placed.append(PlacedMount(mount, tmpfs_volume=in_memory.index(tmpfs_volume(record))))
                    continue
                if record.kind == NFS:
                    placed.append(PlacedMount(mount, server=await nfs_volume(len(placed), record)))
                    continue
                if record.kind == DISK:
                    self._hold(record, container, neighbours)
                    placed.append(PlacedMount(mount, disk=disks.index(self._disk(record))))
                    continue
                path = self._store.data(record) if record.kind == DIRECTORY else Path(record.device)
                if record.kind == BIND and not path.exists():
                    raise InvalidParameter(f"failed to mount local volume: mount {path}: no such file or directory")
            placed.append(PlacedMount(mount, share=len(shares)))
            cached = self._may_be_cached(mount, container)
            shares.append(Share(path, mount.read_only, mount.subpath, mount.recursive, cached))
        return MountPlan(tuple(placed), tuple(shares), tuple(disks), tuple(in_memory))

    def _may_be_cached(self, mount: MountRecord, container: Container) -> bool:
        """Whether the container's machine may keep names and attributes of files for a moment.

        The client's word counts. Without it, a machine caches the volumes that no other container has. Programs of the host may
        change paths of the host at any time. Docker's documentation asks them to leave the files of volumes alone.
        """
        if mount.consistency:
            return mount.consistency != "consistent"
        if mount.type == "bind" or self.get(mount.name).kind != DIRECTORY:
            return False
        return self.users(mount.name) == [container.id]

    def disks_of(self, container: Container) -> list[Disk]:
        """The disks of a container's volumes, each once, in the order of MountPlan.disks."""
        return list(dict.fromkeys(map(self._disk, self._of_kind(container, DISK))))

    def tmpfs_of(self, container: Container) -> list[TmpfsVolume]:
        """The tmpfs volumes of a container, each once, in the order of MountPlan.tmpfs_volumes."""
        return list(dict.fromkeys(map(tmpfs_volume, self._of_kind(container, TMPFS))))

    def _disk(self, record: VolumeRecord) -> Disk:
        return Disk(self._store.disk(record), False)

    def _of_kind(self, container: Container, kind: str) -> list[VolumeRecord]:
        names = [mount.name for mount in container.record.mounts if mount.type == "volume"]
        return [self._records[name] for name in names if name in self._records and self._records[name].kind == kind]

    def holders(self, container: Container) -> list[Container]:
        """The other containers whose machines have a disk that this container mounts."""
        names = {mount.name for mount in container.record.mounts if mount.type == "volume"}
        ids = {holder for name in names for holder in self._holders.get(name, ())}
        return [other for other in self._containers.all() if other.id in ids and other is not container]

    def _hold(self, record: VolumeRecord, container: Container, neighbours: Collection[str]) -> None:
        holders = self._holders.setdefault(record.name, set())
        for holder in holders.difference(neighbours, [container.id]):
            raise Conflict(
                f"volume {record.name} is a disk, and only one running container can have it: container {holder[:12]} has it"
            )
        holders.add(container.id)

    def hold_disks(self, container: Container) -> None:
        """A restarted vchd has found the container running: reserve its disks."""
        for record in self._of_kind(container, DISK):
            self._holders.setdefault(record.name, set()).add(container.id)

    def release_disks(self, container: Container) -> None:
        """The container's machine is gone: release its disks."""
        rest = ((name, holders - {container.id}) for name, holders in self._holders.items())
        self._holders = {name: holders for name, holders in rest if holders}

    def emit(self, action: str, container: Container) -> None:
        """Publish the event `mount` or `unmount`, which belongs to the container's owner, for each volume of a container."""
        for mount in container.record.mounts:
            if mount.type != "volume" or container.record.role:
                continue
            more = {"container": container.id}
            if action == "mount":
                more |= {
                    "destination": mount.destination,
                    "propagation": "",
                    "read/write": str(not mount.read_only).lower(),
                }
            self._emit(action, mount.name, container.record.owner, **more)
