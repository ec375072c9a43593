"""Machines that wait for a container: restored or cloned, rehearsed, with a session. A start takes one and attaches its disks."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import trio

from appliance.diag.isolated import IsolatedTasks
from appliance.engine.machines.rehearsal import ContainerRehearsal
from appliance.errors import leaves
from appliance.guest import GuestSession
from appliance.hypervisor import SOME_SHARES, Adaptable, Cloning, Machine, MachineSpec
from tether.rpc.bridge import LoopThread

log = logging.getLogger(__name__)

# Starts often come in series. The pool waits for a pause, since its work would slow them down.
_QUIET_SECONDS = 0.5
_LOOK_AGAIN_SECONDS = 5.0
_REHEARSAL_SECONDS = 60.0


@dataclass(slots=True)
class Waiting:
    """A blank machine, and the running session with its guest."""

    machine: Machine
    session: GuestSession

    async def become(self, spec: MachineSpec) -> None:
        """Turn the machine into one of this spec. After HypervisorError or OSError the machine is not usable."""
        assert isinstance(self.machine, Adaptable)
        await self.machine.become(spec)

    async def end(self) -> None:
        self.session.close()
        await self.machine.destroy()


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """How many machines of which kind wait. `lazy`: only after the first start that wanted such a machine."""

    size: int
    kind: MachineSpec
    lazy: bool = False


class Pool:
    """Keeps the machines of a plan ready.

    `rehearsal` is None if the driver's machines have rehearsed already. `nursery` runs the sessions with the guests.
    `has_room` reports whether the host has memory for more machines.
    """

    def __init__(
        self,
        plan: PoolPlan,
        driver: Cloning,
        rehearsal: ContainerRehearsal | None,
        loop: LoopThread,
        nursery: trio.Nursery,
        has_room: Callable[[], bool],
    ) -> None:
        self._wanted = not plan.lazy
        self._size = plan.size
        self._kind = plan.kind
        self._driver = driver
        self._rehearsal = rehearsal
        self._loop = loop
        self._tasks = IsolatedTasks(nursery)
        self._has_room = has_room
        self._ready: deque[Waiting] = deque()
        self._starting = 0
        self._last_start = -_QUIET_SECONDS
        self._wake = trio.Event()

    @property
    def ready(self) -> int:
        return len(self._ready)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """The pool makes no machines while this block runs."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1
            self._last_start = trio.current_time()
            self._wake.set()

    def take(self, spec: MachineSpec) -> Waiting | None:
        """A waiting machine that can become a machine of this spec, or None."""
        if _shape(spec) != _shape(self._kind):
            return None
        self._wanted = True
        while self._ready:
            waiting = self._ready.popleft()
            if not waiting.session.closed:
                return waiting
            # The machine ended while it waited.
            self._tasks.start_soon(waiting.end)
        return None

    async def run(self) -> None:
        """Fill the pool, until cancelled; then destroy the waiting machines."""
        try:
            while True:
                await self._step()
        finally:
            with trio.CancelScope(shield=True):
                while self._ready:
                    await self._ready.popleft().end()

    async def _step(self) -> None:
        if not self._has_room():
            while self._ready:
                await self._ready.pop().end()
        elif self._wanted and len(self._ready) < self._size and not self._starting:
            quiet = self._last_start + _QUIET_SECONDS - trio.current_time()
            if quiet > 0:
                await trio.sleep(quiet)
                return
            try:
                waiting = await self._make()
            except Exception as error:
                log.warning(
                    "the pool could not make a machine: %s", "; ".join(str(one) or repr(one) for one in leaves(error))
                )
                waiting = None
            if waiting is not None:
                self._ready.append(waiting)
                return
        self._wake = trio.Event()
        with trio.move_on_after(_LOOK_AGAIN_SECONDS):
            await self._wake.wait()

    async def _make(self) -> Waiting | None:
        machine = await self._driver.create_blank(self._kind)
        if machine is None:
            return None
        session: GuestSession | None = None
        try:
            assert isinstance(machine, Adaptable)
            machine.in_background(True)
            session = GuestSession(self._loop, await machine.dial_tether())
            self._tasks.start_soon(session.run)
            with trio.fail_after(_REHEARSAL_SECONDS):
                if self._rehearsal is not None:
                    await self._rehearsal.rehearse(session, self._kind, machine.guest_disks())
                else:
                    await session.hello(_REHEARSAL_SECONDS)
            machine.in_background(False)
        except BaseException:
            if session is not None:
                session.close()
            with trio.CancelScope(shield=True):
                await machine.destroy()
            raise
        return Waiting(machine, session)


def _shape(spec: MachineSpec) -> MachineSpec:
    """The part of a spec that a waiting machine cannot change."""
    nic = spec.nic.kind if spec.nic is not None else None
    return replace(spec, id="", name="", disks=(), nic=nic, more_nics=(), shares=SOME_SHARES if spec.shares else ())
