"""`docker start`, `restart`, `rename` and `wait`; creation, removal and signals have their own modules beside this one."""

from collections.abc import Callable

from appliance.container import lifecycle
from appliance.container.lifecycle import Start
from appliance.container.links import parse_link
from appliance.engine.containers.checkpoints import Checkpoints
from appliance.engine.containers.signals import Signals
from appliance.engine.containers.supervisor import Supervisor
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.errors import Conflict, InvalidParameter, NotFound, NotModified, VchError


class ContainerService:
    """Errors carry Docker's texts."""

    def __init__(
        self,
        registry: ContainerRegistry,
        repository: ContainerRepository,
        supervisor: Supervisor,
        checkpoints: Checkpoints,
        signals: Signals,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._supervisor = supervisor
        self._checkpoints = checkpoints
        self._signals = signals

    async def start(self, ref: str, *, by_user: bool = False, checkpoint: str = "", directory: str = "") -> None:
        """Start a container, from a checkpoint if `checkpoint` names one; returns when its process runs.

        InvalidParameter with Docker's text when its program cannot be started.
        """
        container = self._registry.get(ref)
        if by_user:
            if container.restarting:
                raise NotModified("container is already started")
            container.record.stopped_by_user = False
            container.record.restarts = 0
        async with container.lock:
            if container.removed:
                raise NotFound(f"No such container: {ref}")
            lifecycle.advance(container.state, Start())
            source = self._checkpoints.find(container, checkpoint, directory) if checkpoint else None
            await self._supervisor.start(container, source)

    async def restart(self, ref: str, *, signal: str, timeout: float | None) -> None:
        """Stop a container that runs, and start it. VchError with Docker's text when one of both fails."""
        container = self._registry.get(ref)
        try:
            if container.running:
                await self._signals.stop(ref, signal=signal, timeout=timeout)
            container.record.stopped_by_user = False
            await self.start(ref)
        except NotModified:
            raise
        except VchError as error:
            # moby (daemon/restart.go, ContainerRestart) loses the kind of the error, so the status is 500.
            raise VchError(f"Cannot restart container {ref}: {error}") from error
        self._repository.emit(container, "restart")

    async def rename(self, ref: str, name: str) -> None:
        container = self._registry.get(ref)
        if not name:
            raise InvalidParameter("Neither old nor new names may be empty")
        if name.removeprefix("/") == container.record.name:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        old = container.record.name
        container.record.name = self._registry.take_name(name, container.id, container.record.owner)
        try:
            await self._repository.save(container)
        except BaseException:
            self._registry.release_name(container.record.name)
            container.record.name = old
            raise
        self._registry.release_name(old)
        self._repository.emit(container, "rename", oldName=f"/{old}")

    async def unlink(self, ref: str, alias: str) -> None:
        """Remove a legacy link of a container to another container."""
        container = self._registry.get(ref)
        links = container.record.host_config.links or []
        remaining = [link for link in links if parse_link(link)[1] != alias]
        if len(remaining) == len(links):
            raise NotFound(f"no link {alias} in container {ref}")
        container.record.host_config.links = remaining
        await self._repository.save(container)

    def attached(self, ref: str) -> None:
        """Announce that a client attaches. Conflict when the container is paused or waits for its restart."""
        container = self._registry.get(ref)
        if container.paused:
            raise Conflict(f"container {ref} is paused, unpause the container before attach")
        if container.restarting:
            raise Conflict(f"container {ref} is restarting, wait until the container is running")
        self._repository.emit(container, "attach")

    def wait(self, ref: str, condition: str) -> tuple[Container, Callable[[], bool]]:
        """The container, and a test whether the condition is met since this call. Repeat the test after each `changed` event."""
        container = self._registry.get(ref)
        exits = container.exits
        match condition:
            case "" | "not-running":
                # Clients that already wait see the exit; clients that ask now see a container that restarts.
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
