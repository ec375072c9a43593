"""Resuming the run of a machine that an earlier daemon started and left on."""

import logging
from contextlib import AsyncExitStack

import trio

from appliance.container.lifecycle import Pause, Start
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.containers.execs import Execs
from appliance.engine.containers.run_resources import RunResources
from appliance.engine.containers.start_attempt import StartAttempt, StartCancelled
from appliance.engine.containers.supervisor import Supervisor
from appliance.engine.machines.boot import begin_found
from appliance.engine.machines.pods import Pods
from appliance.engine.machines.suspend_watcher import SuspendWatcher, suspended_machine
from appliance.engine.model.container import Container
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Ended, Run, RunningProcess
from appliance.errors import VchError
from appliance.guest import Phase
from appliance.hypervisor import Machine

log = logging.getLogger(__name__)

_AWAKE_SECONDS = 120.0


class _AlreadyEnded(VchError):
    """The end of the run is stored: only the container's part of the machine is left over."""


class RunResumption:
    """`nursery` owns the runs."""

    def __init__(
        self,
        pods: Pods,
        supervisor: Supervisor,
        resources: RunResources,
        repository: ContainerRepository,
        suspend_watcher: SuspendWatcher,
        execs: Execs,
        nursery: trio.Nursery,
    ) -> None:
        self._pods = pods
        self._supervisor = supervisor
        self._resources = resources
        self._repository = repository
        self._suspend_watcher = suspend_watcher
        self._execs = execs
        self._tasks = IsolatedTasks(nursery)

    async def resume(self, container: Container, machine: Machine) -> None:
        """Follow the run of a machine that is on. Returns before the guest has answered."""
        self._resources.reacquire(container)
        if container.running:
            container.begin_recovery()
            self._execs.restore(container)
            self._tasks.start_soon(self._follow, container, machine)
        else:
            await self._tasks.start(self._follow_start, container, machine)

    async def _follow_start(
        self, container: Container, machine: Machine, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """A start or a file session was interrupted. Hold the lock until we know which."""
        async with container.lock:
            attempt = StartAttempt(container.state)
            container.abort = attempt.scope
            container.move(Start())
            self._tasks.start_soon(self._follow, container, machine, attempt)
            task_status.started()
            await attempt.ready.wait()

    async def _follow(self, container: Container, machine: Machine, attempt: StartAttempt | None = None) -> None:
        """A whole run. A failure becomes the container's state; other containers are not affected."""
        try:
            with attempt.scope if attempt is not None else trio.CancelScope() as scope:
                await self._run(container, machine, attempt)
            if scope.cancelled_caught:
                raise StartCancelled(f"the start of container {container.id} was cancelled")
        except Exception as error:
            if not isinstance(error, VchError):
                log.exception("the resumed run of container %s failed", container.id[:12])
            await self._leave(container, machine)
            if container.running:
                await self._supervisor.ended(container, Ended(None, str(error)))
            elif attempt is not None:
                log.info("container %s was not started: %s", container.id[:12], error)
                await self._supervisor.abandon(container, attempt)
                if not isinstance(error, StartCancelled):
                    self._supervisor.restart_after_boot(container)
        finally:
            if attempt is not None:
                container.abort = None
                attempt.answer()

    async def _leave(self, container: Container, machine: Machine) -> None:
        """The container has not got as far as a run, or its run has failed."""
        # When the daemon ends, connections break in any order. Such an error says nothing about the machine.
        await trio.lowlevel.checkpoint_if_cancelled()
        pod = self._pods.of(container)
        if pod is not None:
            await pod.leave(container.id, clean=False)
        elif self._pods.of_machine(machine.id) is None:
            await machine.destroy()

    async def _run(self, container: Container, machine: Machine, attempt: StartAttempt | None) -> None:
        record = container.record
        log_file = container.open_log_if_kept()
        if log_file is not None and log_file.entries <= record.run_first_entry:
            log_file.begin_run(record.run_offset)
        pod = await self._pods.adopt(container, machine)
        run = container.run = self._supervisor.make_run(container, pod)
        container.notify()

        async def begin(run: Run, _: AsyncExitStack) -> RunningProcess:
            await self._wait_awake(container, run)
            state = await begin_found(run.session, container)
            if attempt is not None:
                if record.seat is not None and state.started_ns == record.started and record.finished:
                    raise _AlreadyEnded("the container has ended, and was about to leave its machine")
                self._supervisor.started(container, state.started_ns, state.pid)
                await self._repository.save(container)
                attempt.answer()
            if state.phase is not Phase.PAUSED:
                self._suspend_watcher.unpause(container)
            elif not container.paused:
                container.move(Pause(container.id))
            self._supervisor.watch(container, run)
            await self._execs.resume(container, run)
            if container.running and state.phase is not Phase.EXITED:
                self._tasks.start_soon(run.accompany, self._end_recovery, container, run, state.written_offset)
            return RunningProcess(log_file.guest_offset if log_file is not None else state.acknowledged_offset)

        await run.supervise(begin, lambda ended: self._supervisor.ended(container, ended))

    @staticmethod
    async def _end_recovery(container: Container, run: Run, written: int) -> None:
        """Clients that read the log now find what the process wrote while no daemon ran."""
        await run.wait_offset(written)
        container.end_recovery()

    @staticmethod
    async def _wait_awake(container: Container, run: Run) -> None:
        """Return when the machine is not suspended. A suspended machine answers only after an operator or client resumes it."""
        machine = suspended_machine(container)
        if machine is None:
            return
        if container.running and not container.paused:
            container.move(Pause(container.id))
        container.end_recovery()
        while (placement := machine.placement).suspended:
            await machine.wait_changed(placement)
        await run.session.awaken(_AWAKE_SECONDS)
