"""Where a container's machine comes from: the pool, a template, a boot, a kept state; in turn, as the host's cores bear."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import trio

from appliance.engine.machines.admission import Admission
from appliance.engine.machines.pool import Pool
from appliance.errors import HypervisorError, Unsupported
from appliance.guest import GuestSession
from appliance.hypervisor import Checkpointable, Driver, Machine, MachineSpec
from tether.rpc.bridge import LoopThread

log = logging.getLogger(__name__)


class MachineProvisioner:
    def __init__(self, driver: Driver, pools: Sequence[Pool], admission: Admission, loop: LoopThread) -> None:
        self._driver = driver
        self._pools = pools
        self._admission = admission
        self._loop = loop

    def facts(self) -> dict[str, str]:
        """For `docker info`."""
        return {
            "Machines waiting": str(sum(pool.ready for pool in self._pools)),
            "Starts queued": str(self._admission.queued),
        }

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until one more machine may be on its way up; it is until the block ends."""
        async with self._admission.turn():
            with ExitStack() as stack:
                for pool in self._pools:
                    stack.enter_context(pool.starting())
                yield

    async def get(
        self, spec: MachineSpec, made: list[Machine], kept: Path | None = None
    ) -> tuple[Machine, GuestSession]:
        """A machine that is on, from wherever it is quickest, or from the state kept in a folder; its session may run already.

        `made` gets those that are to be destroyed if what follows fails.
        """
        waiting = None
        if kept is None:
            waiting = next((found for pool in self._pools if (found := pool.take(spec)) is not None), None)
        if waiting is not None:
            made.append(waiting.machine)
            try:
                await waiting.become(spec)
                return waiting.machine, waiting.session
            except (HypervisorError, OSError) as error:
                log.warning("container %s cannot have a machine of the pool: %s", spec.id[:12], error)
                await waiting.end()
        machine = await self._driver.create(spec)
        made.append(machine)
        try:
            if kept is None:
                await machine.start()
            elif isinstance(machine, Checkpointable):
                await machine.start_from(kept)
            else:
                raise Unsupported("this hypervisor keeps no checkpoints")
            return machine, await self.dial(machine)
        except BaseException:
            with trio.CancelScope(shield=True):
                await machine.destroy()
            raise

    async def dial(self, machine: Machine) -> GuestSession:
        """A session, not running yet, with a machine that is on."""
        return GuestSession(self._loop, await machine.dial_tether())
