"""Looking into a container's files, whether it runs or not: one that does not gets its machine, without its process, for a while.

All who look at the same time share that machine; it goes when nobody has looked for some seconds, or when the container is to
be started or removed.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from appliance.diag.isolated import IsolatedTasks
from appliance.engine.machines.boot import files_setup
from appliance.engine.machines.provisioner import MachineProvisioner
from appliance.engine.model.container import Container
from appliance.engine.networking.endpoints import EndpointAllocator
from appliance.engine.volumes import Volumes
from appliance.errors import Conflict, NotFound, leaves
from appliance.guest import GuestFiles, GuestSession
from appliance.hypervisor import Machine
from appliance.network.network_record import Endpoint

if TYPE_CHECKING:
    # Loaded only where guests have fast paths.
    from appliance.guest.fast_path import FastPaths

_READY_SECONDS = 120.0
_IDLE_SECONDS = 10.0
# A start waits so long for those who are looking; then they are sent away.
_PATIENCE = 10.0


@dataclass(slots=True)
class FileSession:
    """A machine that shows a container's files, to `users` at present. `changed` is replaced and set when that changes."""

    machine: Machine
    session: GuestSession
    users: int = 0
    ending: bool = False
    changed: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)

    def notify(self) -> None:
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    async def wait_unused(self) -> None:
        """Return when nobody has looked for a while, or nobody looks and it is to end."""
        while self.users or not self.ending:
            changed = self.changed
            with trio.move_on_after(float("inf") if self.users else _IDLE_SECONDS):
                await changed.wait()
                continue
            return


class FileSessions:
    """`nursery` owns the machines. A machine has a NIC that is on no network, unless `fast_paths` need one."""

    def __init__(
        self,
        provisioner: MachineProvisioner,
        volumes: Volumes,
        allocator: EndpointAllocator,
        fast_paths: "FastPaths | None",
        nursery: trio.Nursery,
    ) -> None:
        self._allocator = allocator
        self._fast_paths = fast_paths
        self._provisioner = provisioner
        self._volumes = volumes
        self._nic = allocator.blank.nic
        self._tasks = IsolatedTasks(nursery)
        self._visited: dict[str, FileSession] = {}

    @asynccontextmanager
    async def files(self, container: Container) -> AsyncIterator[GuestFiles]:
        """The container's files, as long as the block lasts. VchError when they cannot be shown, or no longer."""
        # The lock is held by a start too, so that there are never two machines.
        async with container.lock:
            visited = None if container.running else await self._enter(container)
        if visited is None:
            if container.run is None:
                raise Conflict(f"container {container.id} is not ready: try again")
            yield GuestFiles(container.run.session, container.id)
            return
        try:
            yield GuestFiles(visited.session)
        finally:
            visited.users -= 1
            visited.notify()

    async def _enter(self, container: Container) -> FileSession:
        if container.removed:
            raise NotFound(f"No such container: {container.id}")
        visited = self._visited.get(container.id)
        if visited is not None and (visited.ending or visited.session.closed):
            await visited.gone.wait()
            visited = None
        if visited is None:
            if container.run is not None:
                await container.run.gone.wait()
            try:
                visited = await self._tasks.start(self._keep, container)
            except ExceptionGroup as group:
                raise leaves(group)[0] from group
        visited.users += 1
        visited.notify()
        return visited

    async def _keep(self, container: Container, task_status: "trio.TaskStatus[FileSession]") -> None:
        """Bring the machine up, hand it out, end it when it is not used any more."""
        with self._allocator.visitor() if self._fast_paths is not None else nullcontext() as endpoint:
            await self._keep_at(endpoint, container, task_status)

    async def _keep_at(
        self, endpoint: Endpoint | None, container: Container, task_status: "trio.TaskStatus[FileSession]"
    ) -> None:
        made: list[Machine] = []
        visited: FileSession | None = None
        try:
            async with trio.open_nursery() as nursery:
                nic = endpoint.nic if endpoint is not None else self._nic
                async with self._provisioner.turn():
                    mount_plan = await self._volumes.mount_plan(container)
                    spec = self._provisioner.files_spec(container, nic, mount_plan)
                    machine, session = await self._provisioner.get(spec, made)
                    if not session.began:
                        nursery.start_soon(session.run)
                    await session.configure(files_setup(container, machine, mount_plan, endpoint), _READY_SECONDS)
                if self._fast_paths is not None and endpoint is not None and endpoint.ipv4 is not None:
                    gateway = endpoint.ipv4.gateway
                    nursery.start_soon(self._fast_paths.keep, session, lambda: gateway)
                visited = self._visited[container.id] = FileSession(machine, session)
                task_status.started(visited)
                async with trio.open_nursery() as watching:

                    async def watch() -> None:
                        await machine.wait_off()
                        watching.cancel_scope.cancel()

                    watching.start_soon(watch)
                    await visited.wait_unused()
                    visited.ending = True
                    await session.shut_down()
                    watching.cancel_scope.cancel()
                session.close()
                nursery.cancel_scope.cancel()
        finally:
            if visited is not None:
                visited.ending = True
                visited.session.close()
            with trio.CancelScope(shield=True):
                for one in made:
                    await one.destroy()
            self._volumes.release_disks(container)
            if visited is not None:
                del self._visited[container.id]
                visited.gone.set()

    async def end(self, container: Container) -> None:
        """Return when no machine shows its files any more. The container's lock is held."""
        visited = self._visited.get(container.id)
        if visited is None:
            return
        visited.ending = True
        visited.notify()
        with trio.move_on_after(_PATIENCE):
            await visited.gone.wait()
        if not visited.gone.is_set():
            await visited.machine.kill()
            await visited.gone.wait()
