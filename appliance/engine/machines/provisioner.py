"""Where a container's machine comes from: the pool, a template, a boot or a checkpoint. Starts queue for the host's cores.

A start gets only a machine whose guest has answered in its time. A guest of the pool or of a template that is silent is ended, and the
container's machine boots instead. A guest that has booted and is silent ends the start with an error.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from appliance.container.host_config import HostConfig
from appliance.diag import mark
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.machines.admission import Admission
from appliance.engine.machines.boot import MachineSize, machine_spec
from appliance.engine.machines.pool import Pool, Waiting
from appliance.engine.model.container import Container
from appliance.engine.model.mount_plan import MountPlan
from appliance.errors import HypervisorError, Unsupported
from appliance.guest import GuestFailure, GuestSession
from appliance.hypervisor import Checkpointable, Disk, Driver, Machine, MachineSpec, Nic, Power, Restorable
from appliance.image.store import ImageStore
from tether.rpc.bridge import LoopThread
from tether.rpc.status import Code

# How long a guest may take for its first answer: after a boot, and when it was restored or has waited in the pool.
BOOT_SECONDS = 120.0
RESTORED_SECONDS = 30.0

log = logging.getLogger(__name__)


class MachineProvisioner:
    """`size` is that of a machine whose container sets no limits. `nursery` runs the sessions with the guests."""

    def __init__(
        self,
        driver: Driver,
        pools: Sequence[Pool],
        admission: Admission,
        images: ImageStore,
        size: MachineSize,
        loop: LoopThread,
        nursery: trio.Nursery,
    ) -> None:
        self._driver = driver
        self._pools = pools
        self._admission = admission
        self._images = images
        self._size = size
        self._loop = loop
        self._tasks = IsolatedTasks(nursery)

    def spec(
        self, container: Container, mount_plan: MountPlan, joiners: Sequence[HostConfig] | None = None
    ) -> MachineSpec:
        """The machine that a container needs: its limits, its layers, its volumes, a NIC for each of its endpoints.

        `joiners`: containers that are to join the machine later; None for a machine that need not grow.
        """
        layers = self._images.layer_paths(container.record.image_id)
        nics = [endpoint.nic for endpoint in container.endpoints if endpoint.interface]
        return machine_spec(container, layers, nics, mount_plan, self._size, joiners=joiners)

    def disks(self, container: Container, volumes: Sequence[Disk]) -> list[Disk]:
        """The disks of a container with these volumes, in the order of `Layout.disks`."""
        layers = self._images.layer_paths(container.record.image_id)
        return [Disk(container.upper, False), *(Disk(path, True) for path in layers), *volumes]

    def files_spec(self, container: Container, nic: Nic, mount_plan: MountPlan) -> MachineSpec:
        """The machine that shows a container's files. Its id is not a container's, so a restarted daemon destroys it."""
        layers = self._images.layer_paths(container.record.image_id)
        spec = machine_spec(container, layers, [nic], mount_plan, self._size, limited=False)
        return replace(spec, id=f"files{container.id}"[:64])

    def facts(self) -> dict[str, str]:
        """For `docker info`."""
        return {
            "Machines waiting": str(sum(pool.ready for pool in self._pools)),
            "VM memory": f"{self._size.memory_mib} MiB",
            "VM CPUs": str(self._size.cpus),
            "Starts queued": str(self._admission.queued),
        }

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until another start is admitted; it counts until the block ends."""
        async with self._admission.turn():
            with ExitStack() as stack:
                for pool in self._pools:
                    stack.enter_context(pool.starting())
                yield

    async def get(self, spec: MachineSpec, checkpoint: Path | None = None) -> tuple[Machine, GuestSession]:
        """A machine that is on, from the pool, a template or a boot, and whose guest has answered; its session runs.

        From a checkpoint's folder: the guest has not answered yet, and the caller runs the session. HypervisorError or GuestFailure when
        the last attempt fails. After an error or a cancellation no machine remains.
        """
        waiting = None
        if checkpoint is None:
            waiting = next((found for pool in self._pools if (found := pool.take(spec)) is not None), None)
        if waiting is not None:
            try:
                await self._adapt(waiting, spec)
                return waiting.machine, waiting.session
            except BaseException as error:
                with trio.CancelScope(shield=True):
                    await waiting.end()
                if not isinstance(error, HypervisorError | GuestFailure | OSError):
                    raise
                log.warning("container %s gets no machine from the pool: %s", spec.id[:12], error)
        machine = await self._driver.create(spec)
        try:
            if checkpoint is not None:
                return machine, await self._continue(machine, checkpoint)
            return machine, await self._start(machine, restores=waiting is None)
        except BaseException:
            with trio.CancelScope(shield=True):
                await machine.destroy()
            raise

    async def _adapt(self, waiting: Waiting, spec: MachineSpec) -> None:
        """Turn a machine of the pool into one of `spec`. The guest answers meanwhile, so that no start waits for that."""
        problems: list[Exception] = []
        async with trio.open_nursery() as nursery:

            async def become() -> None:
                try:
                    await waiting.become(spec)
                except (HypervisorError, OSError) as error:
                    problems.append(error)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(become)
            try:
                await self._wait_answer(waiting.machine, waiting.session, RESTORED_SECONDS)
            except GuestFailure as error:
                problems.append(error)
                nursery.cancel_scope.cancel()
        if problems:
            raise problems[0]

    async def _continue(self, machine: Machine, checkpoint: Path) -> GuestSession:
        if not isinstance(machine, Checkpointable):
            raise Unsupported("this hypervisor does not support checkpoints")
        await machine.start_from(checkpoint)
        return await self.dial(machine)

    async def _start(self, machine: Machine, *, restores: bool) -> GuestSession:
        """Start the machine, from a template if `restores` and there is one; return the session when the guest has answered."""
        if not isinstance(machine, Restorable):
            await machine.start()
            return await self._greet(machine, BOOT_SECONDS)
        if restores:
            await machine.start()
            if not machine.restored:
                return await self._greet(machine, BOOT_SECONDS)
            try:
                return await self._greet(machine, RESTORED_SECONDS)
            except (HypervisorError, GuestFailure) as error:
                log.warning(
                    "the restored guest of machine %s is ended, and the machine boots: %s", machine.id[:12], error
                )
        await machine.boot()
        return await self._greet(machine, BOOT_SECONDS)

    async def _greet(self, machine: Machine, seconds: float) -> GuestSession:
        """A session with a machine that is on, once the guest has answered. HypervisorError or GuestFailure when it does not."""
        session = await self.dial(machine)
        self._tasks.start_soon(session.run)
        try:
            await self._wait_answer(machine, session, seconds)
        except BaseException:
            session.close()
            raise
        return session

    @staticmethod
    async def _wait_answer(machine: Machine, session: GuestSession, seconds: float) -> None:
        try:
            with trio.move_on_after(seconds):
                await session.hello(2 * seconds)
                mark("guest answers")
                return
            reason, code = f"the guest has not answered in {seconds:.0f} s", Code.DEADLINE_EXCEEDED
        except GuestFailure as error:
            reason, code = session.fault or str(error), error.code
            if session.closed and not session.fault and await machine.power() is Power.OFF:
                reason = "the machine ended by itself"
        words = machine.last_words()
        raise GuestFailure(f"{reason}\n{words}" if words else reason, code)

    async def dial(self, machine: Machine) -> GuestSession:
        """A session with a machine that is on. The caller runs the session."""
        return GuestSession(self._loop, await machine.dial_tether())
