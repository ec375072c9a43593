"""File sessions: access to a container's files, whether the container runs or not.

A container that does not run gets a machine without its process for a while. All users at the same time share that machine. It
ends some seconds after its last user, or when the container starts or is removed.
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
from appliance.errors import NotFound, leaves
from appliance.guest import GuestFiles, GuestSession
from appliance.hypervisor import Machine
from appliance.network.network_record import Endpoint

if TYPE_CHECKING:
    # Loaded only where guests have fast paths.
    from appliance.guest.fast_path import FastPaths

_READY_SECONDS = 120.0
_IDLE_SECONDS = 10.0
# How long a start waits for users of the files before it ends their session.
_PATIENCE = 10.0


@dataclass(slots=True)
class FileSession:
    """A machine that shows a container's files, with the number of its users. `changed` is replaced and set when that changes."""

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
        """Return when there are no users and there were none for a while, or the session is to end."""
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
        self._sessions: dict[str, FileSession] = {}

    @asynccontextmanager
    async def files(self, container: Container) -> AsyncIterator[GuestFiles]:
        """The container's files, until the block ends. VchError when the machine does not start, or ends early."""
        await container.wait_recovered()
        # A start holds the lock, too, so that there are never two machines with one disk.
        async with container.lock:
            current = None if container.running else await self._open(container)
        if current is None:
            run = await container.require_run()
            yield GuestFiles(run.session, container.id, run.network)
            return
        try:
            yield GuestFiles(current.session)
        finally:
            current.users -= 1
            current.notify()

    async def _open(self, container: Container) -> FileSession:
        if container.removed:
            raise NotFound(f"No such container: {container.id}")
        current = self._sessions.get(container.id)
        if current is not None and (current.ending or current.session.closed):
            await current.gone.wait()
            current = None
        if current is None:
            if container.run is not None:
                await container.run.wait_gone()
            try:
                current = await self._tasks.start(self._serve, container)
            except ExceptionGroup as group:
                raise leaves(group)[0] from group
        current.users += 1
        current.notify()
        return current

    async def _serve(self, container: Container, task_status: "trio.TaskStatus[FileSession]") -> None:
        """Start the machine, report it by `task_status`, and end it when it is not used any more."""
        with self._allocator.for_file_session() if self._fast_paths is not None else nullcontext() as endpoint:
            await self._serve_at(endpoint, container, task_status)

    async def _serve_at(
        self, endpoint: Endpoint | None, container: Container, task_status: "trio.TaskStatus[FileSession]"
    ) -> None:
        machine: Machine | None = None
        current: FileSession | None = None
        try:
            async with trio.open_nursery() as nursery:
                nic = endpoint.nic if endpoint is not None else self._nic
                async with self._provisioner.turn():
                    mount_plan = await self._volumes.mount_plan(container, for_files=True)
                    spec = self._provisioner.files_spec(container, nic, mount_plan)
                    machine, session = await self._provisioner.get(spec)
                    await session.configure(files_setup(container, machine, mount_plan, endpoint), _READY_SECONDS)
                if self._fast_paths is not None and endpoint is not None and endpoint.ipv4 is not None:
                    gateway = endpoint.ipv4.gateway
                    nursery.start_soon(self._fast_paths.keep, session, lambda: gateway)
                current = self._sessions[container.id] = FileSession(machine, session)
                task_status.started(current)
                async with trio.open_nursery() as watching:

                    async def watch(machine: Machine) -> None:
                        await machine.wait_off()
                        watching.cancel_scope.cancel()

                    watching.start_soon(watch, machine)
                    await current.wait_unused()
                    current.ending = True
                    await session.shut_down()
                    watching.cancel_scope.cancel()
                session.close()
                nursery.cancel_scope.cancel()
        finally:
            if current is not None:
                current.ending = True
                current.session.close()
            if machine is not None:
                with trio.CancelScope(shield=True):
                    await machine.destroy()
            self._volumes.release_disks(container)
            if current is not None:
                del self._sessions[container.id]
                current.gone.set()

    async def end(self, container: Container) -> None:
        """End the session of a container; return when its machine is gone. The caller holds the container's lock."""
        current = self._sessions.get(container.id)
        if current is None:
            return
        current.ending = True
        current.notify()
        with trio.move_on_after(_PATIENCE):
            await current.gone.wait()
        if not current.gone.is_set():
            await current.machine.kill()
            await current.gone.wait()
