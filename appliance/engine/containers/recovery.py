"""Finding containers and their machines again after a restart of vchd: VMs outlive the daemon."""

import shutil

from appliance.container.container_record import state_of
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
        for machine_id, machine in machines.items():
            if machine_id not in known:
                await machine.destroy()
        for container in self._registry.all():
            await self._recover(container, machines.get(container.id))

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
            await self._supervisor.ended(container, Ended(None, "the machine ended while the daemon was not running"))
        elif container.record.bindings or any(one.endpoint for one in container.record.attachments):
            self._allocator.forget(container)
            await self._repository.save(container)
        if not container.restarting:
            self._supervisor.restart_after_boot(container)
