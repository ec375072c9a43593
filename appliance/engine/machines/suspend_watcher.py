"""Keeps containers in step with machines that an operator suspends, renames or moves in the hypervisor's own client."""

import logging

from appliance.container.lifecycle import Pause, Unpause
from appliance.engine.model.container import Container
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Run
from appliance.errors import VchError
from appliance.guest import Phase
from appliance.hypervisor import PlacementState, Suspendable

log = logging.getLogger(__name__)

_AWAKE_SECONDS = 60.0


def suspended_machine(container: Container) -> Suspendable | None:
    """The container's machine if it is suspended, else None."""
    machine = container.run.machine if container.run is not None else None
    return machine if isinstance(machine, Suspendable) and machine.placement.suspended else None


class SuspendWatcher:
    """Pauses the container of a suspended machine. Publishes `machine-rename` and `migrate` when the machine's name or host changes."""

    def __init__(self, repository: ContainerRepository) -> None:
        self._repository = repository

    async def watch(self, container: Container, run: Run) -> None:
        """Follow the machine's placement until the run is over."""
        if not isinstance(run.machine, Suspendable):
            return
        await run.accompany(self._follow, container, run, run.machine)

    async def _follow(self, container: Container, run: Run, machine: Suspendable) -> None:
        before = machine.placement
        while True:
            now = await machine.wait_changed(before)
            if now.suspended:
                self.pause(container)
            elif before.suspended and not await self._is_frozen(container, run):
                self.unpause(container)
            await self._publish_changes(container, machine, before, now)
            before = now

    def pause(self, container: Container) -> None:
        """Mark the container as paused."""
        if container.running and not container.paused:
            container.move(Pause(container.id))
            self._repository.emit(container, "pause")

    def unpause(self, container: Container) -> None:
        """Mark the container as running."""
        if container.paused:
            container.move(Unpause(container.id))
            self._repository.emit(container, "unpause")

    @staticmethod
    async def _is_frozen(container: Container, run: Run) -> bool:
        """Set the clock of a resumed machine; True when the container's processes are frozen in it."""
        try:
            await run.session.awaken(_AWAKE_SECONDS)
            state = (await run.session.processes()).get(container.id)
            return state is not None and state.phase is Phase.PAUSED
        except VchError as error:
            log.warning("container %s does not answer after its machine was resumed: %s", container.id[:12], error)
            return False

    async def _publish_changes(
        self, container: Container, machine: Suspendable, before: PlacementState, now: PlacementState
    ) -> None:
        if before.name and now.name and now.name != before.name:
            self._repository.emit(container, "machine-rename", machineName=now.name, oldMachineName=before.name)
        if before.host and now.host and now.host != before.host:
            names = [await machine.host_name(host) for host in (before.host, now.host)]
            self._repository.emit(container, "migrate", oldHost=names[0], host=names[1])
