"""`docker rm`, and the removal of containers with AutoRemove once their run has ended."""

import trio

from appliance.container import lifecycle
from appliance.container.lifecycle import Remove
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.containers.signals import Signals
from appliance.engine.containers.storage import ContainerStorage
from appliance.engine.containers.supervisor import Supervisor
from appliance.engine.logging.shipping import wait_shipped
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.volumes import Volumes
from appliance.errors import Conflict, NotFound

_SHIP_SECONDS = 3.0


class ContainerRemoval:
    """Errors carry Docker's texts."""

    def __init__(
        self,
        registry: ContainerRegistry,
        repository: ContainerRepository,
        volumes: Volumes,
        storage: ContainerStorage,
        supervisor: Supervisor,
        signals: Signals,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._volumes = volumes
        self._storage = storage
        self._supervisor = supervisor
        self._signals = signals

    async def remove(self, ref: str, *, force: bool, volumes: bool = False) -> None:
        """Remove a container; with `volumes` its anonymous volumes too."""
        container = self._registry.get(ref)
        await self._end(container, ref, force=force)
        async with container.lock:
            if container.removed:
                return
            # A start that held the lock may have gone on.
            await self._end(container, ref, force=force)
            await self._supervisor.wait_no_machine(container)
            await wait_shipped(container, _SHIP_SECONDS)
            container.move(Remove(True, ref))
            await self._repository.remove(container.id)
            container.removed = True
            self._registry.remove(container)
            if container.log is not None:
                container.log.close()
            # The name is free already. The disk need not be gone before the answer: the daemon sweeps it at its next start.
            self._storage.discard_later(container)
            if volumes:
                # Before clients that wait for the removal see it.
                await self._volumes.discard_anonymous(container)
            container.fanout.end_run()
            container.notify()
            container.notify_log()
        self._repository.emit(container, "destroy")

    async def _end(self, container: Container, ref: str, *, force: bool) -> None:
        """End the container's start or run. Conflict without `force` when there is one."""
        lifecycle.advance(container.state, Remove(force, container.id if container.paused else ref))
        if not await self._supervisor.cancel(container) and container.running:
            if container.run is not None and not container.record.mounts:
                container.run.skip_cleaning()
            await self._signals.kill(ref, "KILL", for_removal=True)

    def pruned(self, space: int) -> None:
        """Announce that `docker container prune` has freed `space` bytes."""
        self._repository.publish_prune(space)

    async def run_auto_removal(self, ended: "trio.MemoryReceiveChannel[Container]", nursery: trio.Nursery) -> None:
        """Remove each container that arrives, until cancelled. `nursery` runs the removals."""
        tasks = IsolatedTasks(nursery)
        async for container in ended:
            tasks.start_soon(self._auto_remove, container)

    async def _auto_remove(self, container: Container) -> None:
        try:
            await self.remove(container.id, force=True, volumes=True)
        except (NotFound, Conflict):
            pass  # a client removed it or is removing it
