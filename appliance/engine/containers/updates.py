"""`docker update`: new limits for a container, effective at once if it runs."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from appliance.container.fields import Field, Update, fields_of
from appliance.container.host_config import HostConfig
from appliance.container.spec import resources_of
from appliance.engine.machines.boot import resource_shares
from appliance.engine.machines.pods import Pods
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.errors import Conflict, InvalidParameter
from appliance.hypervisor import Capacity


class Updates:
    """`capacity` is the hypervisor's, see Driver."""

    def __init__(
        self,
        registry: ContainerRegistry,
        repository: ContainerRepository,
        pods: Pods,
        capacity: Callable[[], Awaitable[Capacity]],
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._pods = pods
        self._capacity = capacity

    async def cpus(self) -> int:
        """How many CPUs a container can have."""
        return (await self._capacity()).cpus

    async def update(self, ref: str, wanted: HostConfig, check: Callable[[HostConfig], object]) -> None:
        """Change the fields of HostConfig that `wanted` sets; `check` has to accept the result.

        Conflict in Docker's words when `wanted` contradicts the present settings, or does not fit the VM that runs.
        """
        container = self._registry.get(ref)
        changed = _changed_fields(wanted)
        old = container.record.host_config
        if old.auto_remove and (wanted.restart_policy.name or "no") != "no":
            raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
        async with container.lock:
            before = f"Cannot update container {container.id}: "
            self._check_conflicts(before, old, wanted)
            new = msgspec.structs.replace(old, **{field.attribute: value for field, value in changed})
            try:
                check(new)
            except InvalidParameter as error:
                raise InvalidParameter(f"{before}{error}") from error
            limited = any(field.update is Update.LIMIT for field, _ in changed)
            run = await container.current_run() if limited else None
            if run is not None:
                if problem := self._pods.too_small_for(container, run.pod, new):
                    raise Conflict(f"{before}{problem}")
                await run.session.update(container.id, resources_of(new))
                if resource_shares([new]) != resource_shares([old]):
                    await self._pods.set_shares(run.pod, container, new)
            container.record.host_config = new
            await self._repository.save(container)
        self._repository.emit(container, "update")

    @staticmethod
    def _check_conflicts(before: str, old: HostConfig, new: HostConfig) -> None:
        """As moby's container.UpdateContainer."""
        if new.nano_cpus and (old.cpu_period or old.cpu_quota):
            field = "CPU Period" if old.cpu_period else "CPU Quota"
            raise Conflict(f"{before}Conflicting options: Nano CPUs cannot be updated as {field} has already been set")
        for value, name in ((new.cpu_period, "CPU Period"), (new.cpu_quota, "CPU Quota")):
            if value and old.nano_cpus:
                raise Conflict(
                    f"{before}Conflicting options: {name} cannot be updated as NanoCPUs has already been set"
                )
        if new.memory > old.memory_swap > 0 and not new.memory_swap:
            raise Conflict(
                f"{before}Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
            )


def _changed_fields(wanted: HostConfig) -> list[tuple[Field, Any]]:
    """The fields that `docker update` can change and that are not zero, with their new values."""
    values = [(field, getattr(wanted, field.attribute)) for field in fields_of(HostConfig).values()]
    return [
        (field, value)
        for field, value in values
        if field.update is not Update.NO
        and value
        and (value is not wanted.restart_policy or wanted.restart_policy.name)
    ]
