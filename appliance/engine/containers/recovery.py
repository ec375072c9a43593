"""Finding containers and their machines again after a restart of vchd: VMs outlive the daemon."""

import shutil
from collections.abc import Sequence

from appliance.container.container_record import state_of
from appliance.container.sharing import shared_namespaces
from appliance.engine.containers.checkpoints import remove_unfinished
from appliance.engine.containers.resumption import RunResumption
from appliance.engine.containers.storage import ContainerStorage
from appliance.engine.containers.supervisor import Supervisor
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Ended
from appliance.engine.networking.endpoints import EndpointAllocator
from appliance.hypervisor import Driver, Machine, Power


def targets_first(containers: Sequence[Container]) -> list[Container]:
    """The containers in an order in which each follows the containers whose namespaces it joins."""
    by_ref = {ref: one for one in containers for ref in (one.id, one.record.name)}
    found: dict[str, Container] = {}

    def visit(container: Container, depth: int = 0) -> None:
        if container.id not in found and depth < len(containers):
            for ref in shared_namespaces(container.record.host_config).targets:
                if ref in by_ref:
                    visit(by_ref[ref], depth + 1)
            found[container.id] = container

    for container in containers:
        visit(container)
    return list(found.values())


class Recovery:
    """Runs once, before the API listens."""

    def __init__(
        self,
        driver: Driver,
        registry: ContainerRegistry,
        repository: ContainerRepository,
        storage: ContainerStorage,
        allocator: EndpointAllocator,
        supervisor: Supervisor,
        resumption: RunResumption,
    ) -> None:
        self._driver = driver
        self._registry = registry
        self._repository = repository
        self._storage = storage
        self._allocator = allocator
        self._supervisor = supervisor
        self._resumption = resumption

    async def restore(self) -> None:
        """Load all containers, resume the runs whose machines are on, and remove what belongs to no container."""
        machines = {machine.id: machine for machine in await self._driver.adopt()}
        await self._load()
        known = {container.id for container in self._registry.all()}
        for folder in self._storage.folders():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        seats = {
            container.record.seat.machine for container in self._registry.all() if container.record.seat is not None
        }
        for machine_id, machine in machines.items():
            if machine_id not in known | seats:
                await machine.destroy()
        for container in targets_first(self._registry.all()):
            seat = container.record.seat
            if seat is not None:
                await self._recover(container, machines.get(seat.machine))
            else:
                # A machine of that id with the seats of others is one that the container has left.
                await self._recover(container, machines.get(container.id) if container.id not in seats else None)

    async def _load(self) -> None:
        for key, record in self._repository.load().items():
            folder = self._storage.folder(key)
            if not folder.exists():
                # A removal deletes the record before the folder. A record without a folder is of another data root.
                await self._repository.remove(key)
                continue
            if not record.attachments:
                # The record is of a version that had one network only.
                record.attachments = self._allocator.plan(record.config, record.host_config, {})
            container = Container(record, folder, state_of(record))
            self._registry.add(container)
            remove_unfinished(container)

    async def _recover(self, container: Container, machine: Machine | None) -> None:
        if machine is not None and await machine.power() is Power.ON:
            await self._resumption.resume(container, machine)
            return
        if machine is not None:
            await machine.destroy()
        if container.running:
            container.record.seat = None
            await self._supervisor.ended(container, Ended(None, "the machine ended while the daemon was not running"))
        elif (
            container.record.seat is not None
            or container.record.bindings
            or any(one.endpoint for one in container.record.attachments)
        ):
            self._allocator.forget(container)
            container.record.seat = None
            await self._repository.save(container)
        if not container.restarting:
            self._supervisor.restart_after_boot(container)
