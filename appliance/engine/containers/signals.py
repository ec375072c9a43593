"""`docker kill`, `stop`, `pause`, `unpause` and `resize`: what a client does to the processes of a container."""

import contextlib
import math

import trio

from appliance.container import lifecycle
from appliance.container.lifecycle import GiveUp, Pause, Unpause
from appliance.container.signals import parse_signal
from appliance.engine.containers.supervisor import Supervisor
from appliance.engine.machines.suspend_watcher import SuspendWatcher, suspended_machine
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.errors import Conflict, NotModified, VchError
from appliance.hypervisor import Suspendable

_STOP_SECONDS = 10.0
_KILL_SECONDS = 10.0


class Signals:
    """With `pause_by_suspend`, a pause suspends the machine instead of freezing the processes in it. Errors carry Docker's texts."""

    def __init__(
        self,
        registry: ContainerRegistry,
        repository: ContainerRepository,
        supervisor: Supervisor,
        suspend_watcher: SuspendWatcher,
        *,
        pause_by_suspend: bool,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._supervisor = supervisor
        self._suspend_watcher = suspend_watcher
        self._pause_by_suspend = pause_by_suspend

    async def kill(self, ref: str, signal: str, *, for_removal: bool = False) -> None:
        container = self._registry.get(ref)
        number = parse_signal(signal or "KILL")
        if number in (9, 15) and await self._supervisor.cancel(container):
            return
        if await self._give_up(container):
            return
        try:
            run = await container.require_run()
        except Conflict as error:
            raise Conflict(f"cannot kill container: {ref}: {error}") from error
        if number in (9, 15) or for_removal:
            container.record.stopped_by_user = True
        exits = container.exits
        if number != 9:
            await self._wake(container)
        try:
            if suspended_machine(container) is not None and run.pod.shared:
                # The machine goes on for the others.
                await self._wake(container)
            if suspended_machine(container) is not None:
                # The guest would receive the signal only after the machine is resumed.
                await run.machine.kill()
            else:
                await run.session.signal(container.id, number)
        except Conflict:
            if for_removal:
                return
            raise Conflict(f"cannot kill container: {ref}: container {container.id} is not running") from None
        except VchError:
            # The guest does not answer, so the machine is powered off.
            if number != 9:
                raise
            await run.machine.kill()
        self._repository.emit(container, "kill", signal=str(number))
        if container.paused and number == self._stop_signal(container) != 9:
            # A paused process cannot act on its stop signal.
            await self.unpause(ref)
        if number == 9:
            # As moby does: after SIGKILL the client may start the container again at once.
            with trio.move_on_after(_KILL_SECONDS):
                await self._wait_exit(container, exits)

    async def stop(self, ref: str, *, signal: str, timeout: float | None) -> None:
        """SIGTERM or StopSignal, then SIGKILL after `timeout` seconds (negative: never)."""
        container = self._registry.get(ref)
        if await self._supervisor.cancel(container):
            return
        if await self._give_up(container):
            self._repository.emit(container, "stop")
            return
        if not container.running:
            raise NotModified("container is already stopped")
        if timeout is None:
            configured = container.record.config.stop_timeout
            timeout = float(configured) if isinstance(configured, int) else _STOP_SECONDS
        container.record.stopped_by_user = True
        exits = container.exits
        number = parse_signal(signal) if signal else self._stop_signal(container)
        try:
            await self.kill(ref, str(number))
        except Conflict:
            pass
        container.record.stopped_by_user = True
        with trio.move_on_after(timeout if timeout >= 0 else math.inf):
            await self._wait_exit(container, exits)
        if container.exits == exits:
            try:
                await self.kill(ref, "KILL")
            except Conflict:
                pass
            with trio.move_on_after(10):
                await self._wait_exit(container, exits)
            run = container.run
            if container.exits == exits and run is not None:
                if run.pod.shared and not run.session.closed:
                    # The machine goes on for the others. moby's text (daemon/kill.go).
                    raise VchError(
                        f"cannot stop container: {ref}: tried to kill container, but did not receive an exit event"
                    )
                await run.machine.kill()
                await self._wait_exit(container, exits)
        self._repository.emit(container, "stop")

    async def _give_up(self, container: Container) -> bool:
        """Cancel a restart that is due; False when none is."""
        if not container.restarting:
            return False
        container.record.stopped_by_user = True
        container.move(GiveUp())
        await self._repository.save(container)
        return True

    @staticmethod
    def _stop_signal(container: Container) -> int:
        return parse_signal(container.record.config.stop_signal or "TERM")

    async def pause(self, ref: str) -> None:
        container = self._registry.get(ref)
        lifecycle.advance(container.state, Pause(container.id))
        run = await container.require_run()
        lifecycle.advance(container.state, Pause(container.id))
        if not self._pause_by_suspend or run.pod.shared:
            await run.session.pause(container.id)
        elif isinstance(run.machine, Suspendable):
            await run.machine.suspend()
        self._suspend_watcher.pause(container)

    async def unpause(self, ref: str) -> None:
        container = self._registry.get(ref)
        lifecycle.advance(container.state, Unpause(container.id))
        run = await container.require_run()
        await self._wake(container)
        # Before the processes continue: clients see `unpause` before a `die` that follows at once.
        self._suspend_watcher.unpause(container)
        try:
            # A container in a suspended machine need not be frozen in it, too.
            with contextlib.suppress(Conflict):
                await run.session.unpause(container.id)
        except VchError:
            self._suspend_watcher.pause(container)
            raise

    @staticmethod
    async def _wake(container: Container) -> None:
        """Resume the container's machine, if it is suspended."""
        if (machine := suspended_machine(container)) is not None:
            await machine.resume()

    @staticmethod
    async def _wait_exit(container: Container, exits: int) -> None:
        while container.exits == exits and not container.removed:
            await container.changed.wait()

    async def resize(self, ref: str, rows: int, columns: int) -> None:
        container = self._registry.get(ref)
        run = await container.require_run()
        await run.session.resize(container.id, rows, columns)
        self._repository.emit(container, "resize", height=str(rows), width=str(columns))
