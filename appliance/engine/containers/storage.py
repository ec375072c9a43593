"""Folders and writable disks of containers."""

import functools
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import trio

from appliance.container.lifecycle import Exited
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.machines.suspend_watcher import suspended_machine
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.run import Run
from appliance.engine.quota import Quota
from appliance.errors import VchError
from appliance.guest import GuestFiles
from appliance.hypervisor import SCRATCH, Disks

log = logging.getLogger(__name__)
_UNMOUNT_SECONDS = 5.0
_SYNC_SECONDS = 5.0


class ContainerStorage:
    """`root` holds one folder for each container, named by the container's id. `nursery` runs removals."""

    def __init__(
        self, root: Path, disks: Disks, quota: Quota, registry: ContainerRegistry, nursery: trio.Nursery
    ) -> None:
        self._root = root
        self._root.mkdir(parents=True, exist_ok=True)
        self._disks = disks
        self._quota = quota
        self._registry = registry
        self._tasks = IsolatedTasks(nursery)

    def folder(self, container_id: str) -> Path:
        return self._root / container_id

    def folders(self) -> Iterator[Path]:
        """All folders that are there, also those without a container."""
        return self._root.iterdir()

    async def check_quota(self) -> None:
        """Unavailable when the storage quota leaves no room for another container."""
        await self._quota.admit()

    async def create(self, container: Container) -> None:
        """Make the container's folder and its disk."""
        container.folder.mkdir(mode=0o711)
        await self._disks.create(container.upper, SCRATCH)

    async def discard(self, container: Container) -> None:
        """Remove the container's disk and folder. What fails is left to the next start of the daemon."""
        try:
            await self._disks.remove(container.upper)
        except VchError as error:
            log.warning("the disk of container %s stays until the next start: %s", container.id[:12], error)
        await trio.to_thread.run_sync(functools.partial(shutil.rmtree, container.folder, ignore_errors=True))

    def discard_later(self, container: Container) -> None:
        """Start to remove the container's disk and folder, and return at once."""
        self._tasks.start_soon(self.discard, container)

    def disks(self) -> list[Path]:
        """The writable disks of all containers."""
        return [container.upper for container in self._registry.all()]

    async def sync(self, refs: Iterable[str]) -> None:
        """Have the guests of running containers write to their disks, so that `used` counts it. Guests have a few seconds, together."""
        containers = [self._registry.get(ref) for ref in refs]
        with trio.move_on_after(_SYNC_SECONDS):
            async with trio.open_nursery() as nursery:
                for container in containers:
                    if container.running and container.run is not None and suspended_machine(container) is None:
                        nursery.start_soon(self._sync, container, container.run)

    @staticmethod
    async def _sync(container: Container, run: Run) -> None:
        try:
            await GuestFiles(run.session, container=run.network).sync(_SYNC_SECONDS)
        except VchError as error:
            log.info("container %s has not written all to its disk: %s", container.id[:12], error)

    async def used(self, ref: str) -> int:
        """Bytes that a container's disk takes, with what the container wrote last once it has exited.

        What a running container has written is on the disk within seconds, or after `sync`.
        """
        container = self._registry.get(ref)
        if container.run is not None and isinstance(container.state, Exited):
            # The guest unmounts the disk after the process has exited, before the machine goes.
            with trio.move_on_after(_UNMOUNT_SECONDS):
                await container.run.gone.wait()
        return await self._disks.used(container.upper)

    async def total_used(self) -> int:
        """Bytes that the disks of all containers take."""
        return sum([await self._disks.used(disk) for disk in self.disks()])
