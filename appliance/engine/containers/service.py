"""The containers: create, find, start, stop, wait, remove; and finding them again after this process was killed."""

import contextlib
import functools
import logging
import math
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from appliance.container import lifecycle
from appliance.container.capabilities import capabilities
from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord, state_of
from appliance.container.endpoint_settings import EndpointSettings
from appliance.container.exec_config import ExecConfig
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import Created, GiveUp, Pause, Remove, Start, Unpause
from appliance.container.links import parse_link
from appliance.container.merge import merge_config
from appliance.container.signals import parse_signal
from appliance.container.spec import arguments
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.containers.archive import Files
from appliance.engine.containers.checkpoints import Checkpoints
from appliance.engine.containers.commits import Commits
from appliance.engine.containers.execs import Exec, Execs
from appliance.engine.containers.file_sessions import FileSessions
from appliance.engine.containers.random_names import random_name
from appliance.engine.containers.stats import Stats
from appliance.engine.containers.supervisor import Defaults, Supervisor
from appliance.engine.containers.updates import Updates
from appliance.engine.logging.shipping import wait_shipped
from appliance.engine.machines.admission import Admission
from appliance.engine.machines.pool import Pool
from appliance.engine.machines.provisioner import MachineProvisioner
from appliance.engine.machines.suspend_watcher import SuspendWatcher, suspended_machine
from appliance.engine.model.container import Container
from appliance.engine.model.events import EventBus
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.networking.connections import Connections
from appliance.engine.networking.networks import Networks
from appliance.engine.quota import Quota
from appliance.engine.volumes import Volumes
from appliance.errors import Conflict, InvalidParameter, NotFound, NotModified, VchError
from appliance.hypervisor import SCRATCH, Disks, Driver, Power, Suspendable
from appliance.image.platform import Platform
from appliance.image.store import ImageStore
from appliance.store import Database
from tether.rpc.bridge import LoopThread

if TYPE_CHECKING:
    # Loaded only where guests have fast paths.
    from appliance.guest.fast_path import FastPaths

log = logging.getLogger(__name__)

_STOP_SECONDS = 10.0
_KILL_SECONDS = 10.0
_FORWARD_SECONDS = 3.0


class Containers:
    """`nursery` owns the runs. All methods raise errors of `errors.py` with Docker's texts."""

    def __init__(
        self,
        registry: ContainerRegistry,
        root: Path,
        database: Database,
        driver: Driver,
        images: ImageStore,
        networks: Networks,
        volumes: Volumes,
        events: EventBus,
        loop: LoopThread,
        nursery: trio.Nursery,
        defaults: Defaults,
        disks: Disks,
        admission: Admission,
        pools: Sequence[Pool],
        quota: Quota,
        fast_paths: "FastPaths | None" = None,
        *,
        pause_by_suspend: bool = False,
    ) -> None:
        self._root = root / "containers"
        self._root.mkdir(parents=True, exist_ok=True)
        self._driver = driver
        self._images = images
        self._networks = networks
        self._volumes = volumes
        self._registry = registry
        self._disks = disks
        self._quota = quota
        quota.count(self._disks_used)
        self._provisioner = MachineProvisioner(driver, pools, admission, loop)
        self._repository = ContainerRepository(database, events)
        self._tasks = IsolatedTasks(nursery)
        self._pause_by_suspend = pause_by_suspend
        self._execs = Execs(self._repository, nursery)
        self._suspend_watcher = SuspendWatcher(self._repository)
        self._file_sessions = FileSessions(
            self._provisioner,
            images,
            volumes,
            networks.allocator,
            defaults.memory_mib,
            defaults.cpus,
            fast_paths,
            nursery,
        )
        self.connections = Connections(self.get, self.all, networks, self._repository, defaults.dns)
        self._supervisor = Supervisor(
            self._provisioner,
            self._file_sessions,
            images,
            networks,
            self.connections,
            volumes,
            self._repository,
            self._suspend_watcher,
            fast_paths,
            nursery,
            defaults,
            self._remove_quietly,
            self._execs.forget,
        )
        self._checkpoints = Checkpoints(self._repository)
        self._updates = Updates(self.get, self._repository)
        self.stats = Stats(self.get, self._repository)
        self.files = Files(self.get, self._file_sessions, self._repository)
        self.commits = Commits(
            self.get, self.files, images, self._repository, root / "scratch", self.pause, self.unpause
        )

    async def facts(self) -> dict[str, str]:
        """For `docker info`."""
        return self._provisioner.facts() | await self._quota.facts()

    async def _disks_used(self) -> int:
        return sum([await self._disks.used(container.upper) for container in self.all()])

    # -- finding --------------------------------------------------------------------------------------------------

    def all(self) -> list[Container]:
        return self._registry.all()

    def get(self, ref: str) -> Container:
        """By full id, exact name, unique id prefix."""
        return self._registry.get(ref)

    def user_of_image(self, image_id: str) -> str | None:
        """The short id of a container of the image, if there is one."""
        return self._registry.user_of_image(image_id)

    # -- create, rename, remove -----------------------------------------------------------------------------------

    def check_platform(self, image: str, platform: Platform) -> list[str]:
        """NotFound when the image is not for the platform that was asked for; a warning when it is for another one than ours."""
        actual = self._images.config(self._images.get(image).id).platform
        if platform.fits(actual):
            return []
        if platform.given:
            raise NotFound(
                f"image with reference {image} was found but its platform ({actual}) "
                f"does not match the specified platform ({platform})"
            )
        return [
            f"The requested image's platform ({actual}) does not match the detected host platform ({platform}) "
            "and no specific platform was requested"
        ]

    async def create(
        self, name: str, config: ContainerConfig, host_config: HostConfig, networks: dict[str, EndpointSettings]
    ) -> Container:
        """Make a container of a complete configuration; `config.image` names an image that is here.

        `networks` are EndpointSettings by a network's name or id.
        """
        image = self._images.get(config.image)
        merged = merge_config(config, self._images.config(image.id).config)
        arguments(merged)
        capabilities(host_config)
        attachments = self._networks.allocator.plan(merged, host_config, networks)
        for link in host_config.links or ():
            self._check_link(parse_link(link)[0])
        await self._quota.admit()
        container_id = secrets.token_hex(32)
        if name:
            name = self._registry.take_name(name, container_id)
        else:
            for attempt in range(100):
                name = random_name(attempt)
                if not self._registry.has_name(name):
                    break
            self._registry.take_name(name, container_id)
        if not merged.hostname:
            merged.hostname = container_id[:12]
        folder = self._root / container_id
        now = time.time_ns()
        record = ContainerRecord(
            container_id, name, now, image.id, config.image, merged, host_config, attachments=attachments
        )
        container = Container(record, folder, Created())
        try:
            record.mounts = await self._volumes.plan(merged, host_config)
            folder.mkdir(mode=0o711)
            await self._disks.create(container.upper, SCRATCH)
            await self._repository.save(container)
        except BaseException:
            self._registry.release_name(name)
            with trio.CancelScope(shield=True):
                await self._discard(container)
                await self._volumes.discard_anonymous(container)
            raise
        self._registry.add(container)
        self._repository.emit(container, "create")
        return container

    async def rename(self, ref: str, name: str) -> None:
        container = self.get(ref)
        if not name:
            raise InvalidParameter("Neither old nor new names may be empty")
        if name.removeprefix("/") == container.record.name:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        old = container.record.name
        container.record.name = self._registry.take_name(name, container.id)
        try:
            await self._repository.save(container)
        except BaseException:
            self._registry.release_name(container.record.name)
            container.record.name = old
            raise
        self._registry.release_name(old)
        self._repository.emit(container, "rename", oldName=f"/{old}")

    async def remove(self, ref: str, *, force: bool, volumes: bool = False) -> None:
        """Remove it; with `volumes` its anonymous ones too."""
        container = self.get(ref)
        lifecycle.advance(container.state, Remove(force, container.id if container.paused else ref))
        if not await self._supervisor.cancel(container) and container.running:
            if container.run is not None and not container.record.mounts:
                container.run.skip_cleaning()
            await self.kill(ref, "KILL", for_removal=True)
        async with container.lock:
            if container.removed:
                return
            await self._supervisor.wait_machine_gone(container)
            await self._file_sessions.end(container)
            await wait_shipped(container, _FORWARD_SECONDS)
            container.move(Remove(True, ref))
            await self._repository.remove(container.id)
            container.removed = True
            self._registry.remove(container)
            if container.log is not None:
                container.log.close()
            # What is not named any more need not be gone before the answer; after a kill the next appliance finds it.
            self._tasks.start_soon(self._discard, container)
            if volumes:
                # Before those who wait for its end are told.
                await self._volumes.discard_anonymous(container)
            container.fanout.end_run()
            container.notify()
            container.notify_log()
        self._repository.emit(container, "destroy")

    def _check_link(self, name: str) -> None:
        try:
            self.get(name)
        except NotFound as error:
            # 400, as moby: the client would take 404 for an image that is missing.
            raise InvalidParameter(f"could not get container for {name}: {error}") from error

    async def unlink(self, ref: str, alias: str) -> None:
        """Forget a link of a container to another one."""
        container = self.get(ref)
        links = container.record.host_config.links or []
        kept = [link for link in links if parse_link(link)[1] != alias]
        if len(kept) == len(links):
            raise NotFound(f"no link {alias} in container {ref}")
        container.record.host_config.links = kept
        await self._repository.save(container)

    def pruned(self, space: int) -> None:
        """`docker container prune` has freed so many bytes."""
        self._repository.publish_prune(space)

    async def _discard(self, container: Container) -> None:
        try:
            await self._disks.remove(container.upper)
        except VchError as error:
            log.warning("the disk of container %s stays until the next start: %s", container.id[:12], error)
        await trio.to_thread.run_sync(functools.partial(shutil.rmtree, container.folder, ignore_errors=True))

    def disks(self) -> list[Path]:
        """Their own."""
        return [container.upper for container in self.all()]

    async def disk_used(self, ref: str) -> int:
        """Bytes that a container's own disk takes."""
        return await self._disks.used(self.get(ref).upper)

    async def _remove_quietly(self, container: Container) -> None:
        try:
            await self.remove(container.id, force=True, volumes=True)
        except (NotFound, Conflict):
            pass

    # -- start and signals ----------------------------------------------------------------------------------------

    def attached(self, ref: str) -> None:
        """A client is about to attach."""
        container = self.get(ref)
        if container.paused:
            raise Conflict(f"container {ref} is paused, unpause the container before attach")
        self._repository.emit(container, "attach")

    async def start(self, ref: str, *, by_user: bool = False, checkpoint: str = "", directory: str = "") -> None:
        """Start it, from a checkpoint if one is named; returns when its process runs.

        InvalidParameter with Docker's text when its program cannot be started.
        """
        container = self.get(ref)
        if by_user:
            if container.restarting:
                raise NotModified("container is already started")
            container.record.stopped_by_user = False
            container.record.restarts = 0
        async with container.lock:
            if container.removed:
                raise NotFound(f"No such container: {ref}")
            lifecycle.advance(container.state, Start())
            kept = self._checkpoints.find(container, checkpoint, directory) if checkpoint else None
            await self._supervisor.start(container, kept)

    async def kill(self, ref: str, signal: str, *, for_removal: bool = False) -> None:
        container = self.get(ref)
        number = parse_signal(signal or "KILL")
        if number in (9, 15) and await self._supervisor.cancel(container):
            return
        if await self._give_up(container):
            return
        if not container.running or container.run is None:
            raise Conflict(f"cannot kill container: {ref}: container {container.id} is not running")
        if number in (9, 15) or for_removal:
            container.record.stopped_by_user = True
        exits = container.exits
        if number != 9:
            await self._wake(container)
        try:
            if suspended_machine(container) is not None:
                # It would hear of it when it is awake again.
                await container.run.machine.kill()
            else:
                await container.run.session.signal(container.id, number)
        except Conflict:
            if for_removal:
                return
            raise Conflict(f"cannot kill container: {ref}: container {container.id} is not running") from None
        except VchError:
            # A guest that does not answer still dies.
            if number != 9:
                raise
            await container.run.machine.kill()
        self._repository.emit(container, "kill", signal=str(number))
        if container.paused and number == self._stop_signal(container) != 9:
            # It could not act on that as it is.
            await self.unpause(ref)
        if number == 9:
            # As moby does: whoever kills for good may start it again at once.
            with trio.move_on_after(_KILL_SECONDS):
                await self._wait_exit(container, exits)

    async def stop(self, ref: str, *, signal: str, timeout: float | None) -> None:
        """SIGTERM or StopSignal, then SIGKILL after `timeout` seconds (negative: never)."""
        container = self.get(ref)
        if await self._supervisor.cancel(container):
            return
        if await self._give_up(container):
            self._repository.emit(container, "stop")
            return
        if not container.running:
            raise NotModified("container is already stopped")
        if timeout is None:
            configured = container.record.config.stop_timeout
            timeout = float(configured) if isinstance(configured, int) else _STOP_SECONDS
        container.record.stopped_by_user = True
        exits = container.exits
        number = parse_signal(signal) if signal else self._stop_signal(container)
        try:
            await self.kill(ref, str(number))
        except Conflict:
            pass
        container.record.stopped_by_user = True
        with trio.move_on_after(timeout if timeout >= 0 else math.inf):
            await self._wait_exit(container, exits)
        if container.exits == exits:
            try:
                await self.kill(ref, "KILL")
            except Conflict:
                pass
            with trio.move_on_after(10):
                await self._wait_exit(container, exits)
            if container.exits == exits and container.run is not None:
                await container.run.machine.kill()
                await self._wait_exit(container, exits)
        self._repository.emit(container, "stop")

    async def _give_up(self, container: Container) -> bool:
        """Call off a restart that is due; False when none is."""
        if not container.restarting:
            return False
        container.record.stopped_by_user = True
        container.move(GiveUp())
        await self._repository.save(container)
        return True

    @staticmethod
    def _stop_signal(container: Container) -> int:
        return parse_signal(container.record.config.stop_signal or "TERM")

    async def pause(self, ref: str) -> None:
        container = self.get(ref)
        lifecycle.advance(container.state, Pause(container.id))
        assert container.run is not None
        if not self._pause_by_suspend:
            await container.run.session.pause(container.id)
        elif isinstance(container.run.machine, Suspendable):
            await container.run.machine.suspend()
        self._suspend_watcher.pause(container)

    async def unpause(self, ref: str) -> None:
        container = self.get(ref)
        lifecycle.advance(container.state, Unpause(container.id))
        assert container.run is not None
        await self._wake(container)
        # Before the guest goes on: what ends then at once is not to be heard of first.
        self._suspend_watcher.unpause(container)
        try:
            # Where its machine was suspended, it need not be paused within that, too.
            with contextlib.suppress(Conflict):
                await container.run.session.unpause(container.id)
        except VchError:
            self._suspend_watcher.pause(container)
            raise

    @staticmethod
    async def _wake(container: Container) -> None:
        """Resume its machine, if that is suspended."""
        if (machine := suspended_machine(container)) is not None:
            await machine.resume()

    @staticmethod
    async def _wait_exit(container: Container, exits: int) -> None:
        while container.exits == exits and not container.removed:
            await container.changed.wait()

    async def restart(self, ref: str, *, signal: str, timeout: float | None) -> None:
        container = self.get(ref)
        if container.running:
            await self.stop(ref, signal=signal, timeout=timeout)
        container.record.stopped_by_user = False
        await self.start(ref)
        self._repository.emit(container, "restart")

    async def resize(self, ref: str, rows: int, columns: int) -> None:
        container = self.get(ref)
        if not container.running or container.run is None:
            raise Conflict(f"container {container.id} is not running")
        await container.run.session.resize(container.id, rows, columns)
        self._repository.emit(container, "resize", height=str(rows), width=str(columns))

    async def update(self, ref: str, wanted: HostConfig, check: Callable[[HostConfig], object]) -> None:
        await self._updates.update(ref, wanted, check)

    def wait(self, ref: str, condition: str) -> tuple[Container, Callable[[], bool]]:
        """What to wait for, as a test that `changed` makes worth repeating; from this call on, so subscribe then answer."""
        container = self.get(ref)
        exits = container.exits
        match condition:
            case "" | "not-running":
                # One that is to be restarted has ended for who waited, and runs for who asks now.
                def over() -> bool:
                    runs = container.restarting or isinstance(container.state, lifecycle.Running | lifecycle.Starting)
                    return container.exits > exits or not runs

                return container, over
            case "next-exit":
                return container, lambda: container.exits > exits or container.removed
            case "removed":
                return container, lambda: container.removed
            case _:
                raise InvalidParameter(f'invalid condition: "{condition}"')

    # -- execs ----------------------------------------------------------------------------------------------------

    def execs_of(self, container_id: str) -> list[str]:
        return self._execs.of(self.get(container_id))

    def create_exec(self, ref: str, config: ExecConfig) -> Exec:
        return self._execs.create(self.get(ref), ref, config)

    def get_exec(self, exec_id: str) -> Exec:
        return self._execs.get(exec_id)

    async def start_exec(self, exec_id: str) -> None:
        await self._execs.start(self._execs.get(exec_id))

    async def resize_exec(self, exec_id: str, rows: int, columns: int) -> None:
        await self._execs.resize(self._execs.get(exec_id), rows, columns)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    async def create_checkpoint(self, ref: str, checkpoint: str, directory: str, *, leave_running: bool) -> None:
        await self._checkpoints.create(self.get(ref), ref, checkpoint, directory, leave_running=leave_running)

    def list_checkpoints(self, ref: str, directory: str) -> list[str]:
        return self._checkpoints.list(self.get(ref), ref, directory)

    async def remove_checkpoint(self, ref: str, checkpoint: str, directory: str) -> None:
        await self._checkpoints.remove(self.get(ref), ref, checkpoint, directory)

    # -- after a restart of this process --------------------------------------------------------------------------

    async def restore(self) -> None:
        """Find everything again: records, running machines; finish or remove what was half made."""
        machines = {machine.id: machine for machine in await self._driver.adopt()}
        for key, record in self._repository.load().items():
            folder = self._root / key
            if not folder.exists():
                # Killed between the removal of the folder's name and the record's: the record goes first, so this is foreign.
                await self._repository.remove(key)
                continue
            if not record.attachments:
                # Of an appliance that had one network only.
                record.attachments = self._networks.allocator.plan(record.config, record.host_config, {})
            container = Container(record, folder, state_of(record))
            self._registry.add(container)
            self._checkpoints.tidy(container)
        known = {container.id for container in self.all()}
        for folder in self._root.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        for machine_id, machine in machines.items():
            if machine_id not in known:
                await machine.destroy()
        for container in self.all():
            found = machines.get(container.id)
            if found is not None and await found.power() is Power.ON:
                await self._supervisor.take_up(container, found)
                continue
            if found is not None:
                await found.destroy()
            await self._supervisor.lost(container)
            if not container.restarting:
                self._supervisor.restart_after_boot(container)
