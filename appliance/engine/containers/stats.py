"""The processes and the resource usage of running containers: `docker top` and `docker stats`."""

import trio

from appliance.container.top import parse_ps, ps_arguments
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.errors import Conflict, InvalidParameter, NotFound
from appliance.guest import Metrics
from appliance.hypervisor import Usage


class Stats:
    def __init__(self, registry: ContainerRegistry, repository: ContainerRepository) -> None:
        self._registry = registry
        self._repository = repository

    async def top(self, ref: str, arguments: str) -> tuple[list[str], list[list[str]]]:
        """(titles, rows) of ps for the container's processes."""
        container = self._registry.get(ref)
        words = ps_arguments(arguments)
        run = await container.require_run()
        try:
            table = await run.session.top(container.id, words)
        except InvalidParameter as error:
            raise InvalidParameter(f"ps: {str(error).partition(chr(10))[0]}") from error
        self._repository.emit(container, "top")
        # The guest may send megabytes.
        return await trio.to_thread.run_sync(parse_ps, table.output.decode("utf-8", "replace"), set(table.pids))

    async def sample(self, ref: str) -> tuple[Metrics, Usage] | None:
        """One sample of the guest's and one of the hypervisor's metrics; None while the container does not run."""
        container = self._registry.get(ref)
        run = await container.current_run()
        if run is None:
            return None
        try:
            return await run.session.sample(container.id), await run.machine.usage()
        except (Conflict, NotFound):
            return None  # it has just ended
