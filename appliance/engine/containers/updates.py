"""`docker update`: other limits for a container, at once if it runs."""

from collections.abc import Callable
from typing import Any

from appliance.container.spec import LIMITS, resources_of
from appliance.engine.machines.boot import fits, resource_shares
from appliance.engine.model.container import Container
from appliance.engine.model.repository import ContainerRepository
from appliance.errors import Conflict, InvalidParameter
from appliance.hypervisor import SetShares


class Updates:
    """`find` gives a container by its name or id."""

    def __init__(self, find: Callable[[str], Container], repository: ContainerRepository) -> None:
        self._find = find
        self._repository = repository

    async def update(self, ref: str, wanted: dict[str, Any], check: Callable[[dict[str, Any]], object]) -> None:
        """Change the fields of HostConfig in `wanted` that are not zero; `check` has to accept the outcome.

        Conflict in Docker's words for what contradicts what is set, or does not fit the machine that runs.
        """
        container = self._find(ref)
        changed = {key: value for key, value in wanted.items() if value}
        policy = changed.get("RestartPolicy") or {}
        if not policy.get("Name"):
            changed.pop("RestartPolicy", None)
        old = container.record.host
        if old.get("AutoRemove") and policy.get("Name", "no") != "no":
            raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
        async with container.lock:
            before = f"Cannot update container {container.id}: "
            self._check_conflicts(before, old, changed)
            host = {**old, **changed}
            try:
                check(host)
            except InvalidParameter as error:
                raise InvalidParameter(f"{before}{error}") from error
            run = container.run
            if changed.keys() & LIMITS and container.running and run is not None:
                if problem := fits(run.machine.spec, host):
                    raise Conflict(f"{before}{problem}")
                await run.session.update(container.id, resources_of(host))
                if isinstance(run.machine, SetShares) and resource_shares(host) != resource_shares(old):
                    await run.machine.set_shares(resource_shares(host))
            container.record.host = host
            await self._repository.save(container)
        self._repository.emit(container, "update")

    @staticmethod
    def _check_conflicts(before: str, old: dict[str, Any], new: dict[str, Any]) -> None:
        """As moby's container.UpdateContainer."""
        if new.get("NanoCpus") and (old.get("CpuPeriod") or old.get("CpuQuota")):
            field = "CPU Period" if old.get("CpuPeriod") else "CPU Quota"
            raise Conflict(f"{before}Conflicting options: Nano CPUs cannot be updated as {field} has already been set")
        for key, name in (("CpuPeriod", "CPU Period"), ("CpuQuota", "CPU Quota")):
            if new.get(key) and old.get("NanoCpus"):
                raise Conflict(
                    f"{before}Conflicting options: {name} cannot be updated as NanoCPUs has already been set"
                )
        memory, swap = new.get("Memory") or 0, old.get("MemorySwap") or 0
        if memory > swap > 0 and not new.get("MemorySwap"):
            raise Conflict(
                f"{before}Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
            )
