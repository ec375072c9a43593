"""Where a container's machine comes from: the pool, a template, a boot or a checkpoint. Starts queue for the host's cores."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from appliance.container.host_config import HostConfig
from appliance.engine.machines.admission import Admission
from appliance.engine.machines.boot import MachineSize, machine_spec
from appliance.engine.machines.pool import Pool
from appliance.engine.model.container import Container
from appliance.engine.model.mount_plan import MountPlan
from appliance.errors import HypervisorError, Unsupported
from appliance.guest import GuestSession
from appliance.hypervisor import Checkpointable, Disk, Driver, Machine, MachineSpec, Nic
from appliance.image.store import ImageStore
from tether.rpc.bridge import LoopThread

log = logging.getLogger(__name__)


class MachineProvisioner:
    """`size` is that of a machine whose container sets no limits."""

    def __init__(
        self,
        driver: Driver,
        pools: Sequence[Pool],
        admission: Admission,
        images: ImageStore,
        size: MachineSize,
        loop: LoopThread,
    ) -> None:
        self._driver = driver
        self._pools = pools
        self._admission = admission
        self._images = images
        self._size = size
        self._loop = loop

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
        """A machine that is on, from the pool, a template or a boot, or from a checkpoint's folder; its session may run already.

        After an error or a cancellation no machine remains.
        """
        waiting = None
        if checkpoint is None:
            waiting = next((found for pool in self._pools if (found := pool.take(spec)) is not None), None)
        if waiting is not None:
            try:
                await waiting.become(spec)
                return waiting.machine, waiting.session
            except BaseException as error:
                with trio.CancelScope(shield=True):
                    await waiting.end()
                if not isinstance(error, HypervisorError | OSError):
                    raise
                log.warning("container %s gets no machine from the pool: %s", spec.id[:12], error)
        machine = await self._driver.create(spec)
        try:
            if checkpoint is None:
                await machine.start()
            elif isinstance(machine, Checkpointable):
                await machine.start_from(checkpoint)
            else:
                raise Unsupported("this hypervisor does not support checkpoints")
            return machine, await self.dial(machine)
        except BaseException:
            with trio.CancelScope(shield=True):
                await machine.destroy()
            raise

    async def dial(self, machine: Machine) -> GuestSession:
        """A session with a machine that is on. The caller runs the session."""
        return GuestSession(self._loop, await machine.dial_tether())
