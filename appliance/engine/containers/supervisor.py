"""The runs of a container: from a start to the end, and from the end to a restart."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Protocol

import trio

from appliance.container import lifecycle
from appliance.container.container_record import SeatRecord
from appliance.container.lifecycle import (
    Created,
    Exit,
    Exited,
    GiveUp,
    NeverStarted,
    Running,
    Start,
    Started,
    StartFailed,
    Starting,
)
from appliance.container.restart import decide, decide_after_boot
from appliance.diag import Trace, mark
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.containers.checkpoints import Checkpoint
from appliance.engine.containers.file_sessions import FileSessions
from appliance.engine.containers.run_resources import RunResources
from appliance.engine.containers.start_attempt import StartAttempt, StartCancelled
from appliance.engine.logging.shipping import start_shipping
from appliance.engine.machines.boot import begin_awakened, begin_fresh, start_error
from appliance.engine.machines.joining import begin_joined
from appliance.engine.machines.pods import Pods
from appliance.engine.model.container import Container
from appliance.engine.model.pod import Pod
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Ended, Run, RunningProcess, RunStreams
from appliance.errors import Conflict, InvalidParameter, NotModified, VchError, unforeseen
from appliance.guest import StartRefused, exit_code

log = logging.getLogger(__name__)

_DISCONNECT_SECONDS = 2.0
# A start that takes longer is logged, and logged again after each further period.
_SLOW_SECONDS = 60.0


class RunWatcher(Protocol):
    """Work beside a run, such as health checks. `watch` returns when the run of the container is over, or earlier."""

    async def watch(self, container: Container, run: Run) -> None: ...


class Supervisor:
    """Starts runs, restarts them, and records their ends.

    `watchers` accompany each run. Containers with AutoRemove go to `auto_removals` when their run has ended. `nursery` runs
    everything.
    """

    def __init__(
        self,
        pods: Pods,
        resources: RunResources,
        file_sessions: FileSessions,
        repository: ContainerRepository,
        watchers: Sequence[RunWatcher],
        auto_removals: "trio.MemorySendChannel[Container]",
        nursery: trio.Nursery,
    ) -> None:
        self._pods = pods
        self._resources = resources
        self._file_sessions = file_sessions
        self._repository = repository
        self._watchers = watchers
        self._auto_removals = auto_removals
        self._tasks = IsolatedTasks(nursery)

    # -- start ----------------------------------------------------------------------------------------------------

    async def start(self, container: Container, checkpoint: Checkpoint | None = None) -> None:
        """Start a container; returns when its process runs. The caller holds the container's lock.

        InvalidParameter with Docker's text when its program cannot be started, StartCancelled by `cancel`.
        """
        # Before any wait, so that a second start fails at once.
        lifecycle.advance(container.state, Start())
        await self.wait_no_machine(container)
        attempt = StartAttempt(container.state, checkpoint)
        # With the state, so that a stop finds it even before the run's task has begun.
        container.abort = attempt.scope
        container.move(Start())
        self._tasks.start_soon(self._run_guarded, container, attempt)
        # The start goes on if the client disconnects.
        with trio.CancelScope(shield=True):
            await _wait_and_log(
                attempt.ready.wait, container, lambda: f"its last step: {container.trace.last or 'none'}"
            )
        if attempt.outcome is not None:
            raise attempt.outcome

    async def wait_no_machine(self, container: Container) -> None:
        """Return when no machine has the container's disk. The caller holds the container's lock.

        Conflict when another container of its machine goes on using its files.
        """
        if container.run is not None:
            await _wait_and_log(container.run.wait_gone, container, lambda: "the machine of its last run has not ended")
            container.run = None
        await self._file_sessions.end(container)

    async def cancel(self, container: Container) -> bool:
        """Cancel a start that waits in the queue or is under way; False when there is none."""
        if not isinstance(container.state, Starting) or container.abort is None:
            return False
        container.abort.cancel()
        while isinstance(container.state, Starting):
            await container.changed.wait()
        return True

    async def _run_guarded(self, container: Container, attempt: StartAttempt) -> None:
        """A whole run. A failure becomes the container's state; other containers are not affected."""
        try:
            with attempt.scope:
                await self._run(container, attempt)
            if attempt.scope.cancelled_caught:
                raise StartCancelled(f"the start of container {container.id} was cancelled")
        except VchError as error:
            await self._failed(container, attempt, error)
        except Exception as error:
            log.exception("the run of container %s failed", container.id[:12])
            await self._failed(container, attempt, unforeseen(error))
        finally:
            container.abort = None
            attempt.answer()

    async def _failed(self, container: Container, attempt: StartAttempt, error: VchError) -> None:
        if attempt.pod is not None:
            await self._disconnect(container, attempt.pod)
            await attempt.pod.leave(container.id, clean=False)
        self._left(container)
        if container.run is not None:
            container.run.gone.set()
        if isinstance(container.state, Running):
            await self.ended(container, Ended(None, str(error)))
            return
        self._resources.release(container)
        code = 128
        if isinstance(error, StartRefused):
            text, code = start_error(error)
            error = InvalidParameter(text)
        elif isinstance(error, StartCancelled):
            code = 137
        if code == 128 and isinstance(attempt.before, Created | Exited):
            # As in moby (daemon/start.go, containerStart), the exit code of an earlier run stays, unless it was 0.
            code = attempt.before.exit_code or code
        container.move(StartFailed(str(error), code, attempt.before))
        container.fanout.end_run()
        container.stdin.renew()
        await self._repository.save(container)
        attempt.answer(error)
        self._repository.emit(container, "die", exitCode=str(code))
        if container.record.host_config.auto_remove:
            self._auto_removals.send_nowait(container)

    async def _run(self, container: Container, attempt: StartAttempt) -> None:
        """Start the container's process in a machine and follow it to its end."""
        record, checkpoint = container.record, attempt.checkpoint
        container.trace = Trace()
        container.trace.follow()
        async with AsyncExitStack() as queue:
            pod = attempt.pod = await queue.enter_async_context(self._pods.place(container))
            if pod is not None and checkpoint is not None:
                raise Conflict(
                    f"container {record.name} shares its machine with other containers: it cannot start from a checkpoint"
                )
            self._take_host_name(container)
            self._resources.acquire(container)
            await self._free_disks(container)
            guest_config = await self._resources.guest_config(container, pod.seats if pod is not None else ())
            log_file = container.open_log_if_kept()
            record.run_offset = checkpoint.log_offset if checkpoint is not None else 0
            if log_file is not None:
                log_file.begin_run(record.run_offset)
                record.run_first_entry = log_file.entries
            record.seat = SeatRecord(container.id) if pod is None else pod.seats[container.id].record(pod.machine.id)
            saved = self._repository.queue(container)
            await queue.enter_async_context(self._pods.turn())
            joining = None
            if pod is None:
                folder = checkpoint.folder if checkpoint is not None else None
                pod = attempt.pod = await self._pods.begin(container, guest_config.mount_plan, folder)
                mark("machine on")
            else:
                plan = guest_config.mount_plan.numbered_from(pod.seats[container.id].first_socket)
                guest_config = replace(guest_config, mount_plan=plan)
                joining = self._pods.joining(container, pod, plan)
            await self._pods.set_shares(pod, container)
            run = container.run = self.make_run(container, pod)

            async def begin(run: Run, stack: AsyncExitStack) -> RunningProcess:
                # The record is on disk before the process runs, so that a killed daemon finds the run again.
                await saved.wait()
                mark("state saved")
                output = None
                take_leases = self._resources.take_leases
                if checkpoint is not None:
                    started = await begin_awakened(run.session, container, guest_config)
                else:
                    if joining is not None:
                        launched = await begin_joined(stack, container, joining, guest_config, take_leases)
                    else:
                        paths = self._pods.paths(container, run.pod)
                        launched = await begin_fresh(run.pod, stack, container, paths, guest_config, take_leases)
                    started, output = launched.started, launched.output()
                # Further containers can join, and another start has its turn.
                await queue.aclose()
                self.started(container, started.started_ns, started.pid)
                self.watch(container, run)
                self._tasks.start_soon(self._answer, container, attempt)
                return RunningProcess(record.run_offset, output)

            await run.supervise(begin, lambda ended: self.ended(container, ended))

    def _take_host_name(self, container: Container) -> None:
        """A container that shares another container's network has its host name, too (moby's initializeNetworking)."""
        target = self._pods.network_target(container)
        if target is not None:
            config, other = container.record.config, target.record.config
            config.hostname, config.domainname = other.hostname, other.domainname

    async def _free_disks(self, container: Container) -> None:
        """End file sessions of other containers that hold the volume disks which this container needs."""
        for other in self._resources.disk_holders(container):
            if not other.running:
                await self._file_sessions.end(other)
                if isinstance(other.state, Exited) and other.run is not None:
                    await other.run.wait_gone()

    def started(self, container: Container, at: int, pid: int) -> None:
        """The container's process runs: record and announce it. `at` is unix ns, `pid` the guest's."""
        container.move(Started(at, pid))
        self._resources.announce_start(container)
        self._repository.emit(container, "start")
        self._tasks.start_soon(self._resources.notify_linked, container)

    def watch(self, container: Container, run: Run) -> None:
        """Begin the work that accompanies a run."""
        for watcher in self._watchers:
            self._tasks.start_soon(watcher.watch, container, run)
        start_shipping(container, self._tasks)

    async def _answer(self, container: Container, attempt: StartAttempt) -> None:
        """Answer the client once the record is on disk. The process runs already and its output flows."""
        try:
            await self._repository.save(container)
        except VchError as error:
            log.error("container %s runs, but its record was not saved: %s", container.id[:12], error)
        mark("state saved again")
        attempt.answer()

    def make_run(self, container: Container, pod: Pod) -> Run:
        """A run of the container in a pod."""
        streams = RunStreams(
            container.fanout,
            container.stdin if container.record.config.open_stdin else None,
            container.open_log_if_kept(),
            container.notify_log,
        )
        return Run(
            container.id,
            pod,
            streams,
            lambda: self._left(container),
            # A volume outlives its container.
            cleans_disks=bool(container.record.mounts) or not container.record.host_config.auto_remove,
        )

    # -- end ------------------------------------------------------------------------------------------------------

    def _left(self, container: Container) -> None:
        """No machine has the container's disks any more."""
        self._resources.release_disks(container)
        if container.record.seat is not None and not container.removed:
            container.record.seat = None
            self._repository.queue(container)

    @staticmethod
    async def _disconnect(container: Container, pod: Pod) -> None:
        """Remove the container's NICs from a machine that runs on, so that their addresses are never in two guests."""
        if pod.shared:
            with trio.move_on_after(_DISCONNECT_SECONDS):
                await pod.disconnect([endpoint.mac for endpoint in container.endpoints if endpoint.interface])

    async def ended(self, container: Container, ended: Ended) -> None:
        """The container's process has ended: record and announce it, then restart or remove the container if it asks for that."""
        record = container.record
        status = ended.status
        if container.expected_exit:
            code, oom, error = 137, False, ""
            container.expected_exit = False
        elif status is None:
            code, oom, error = 137, False, ended.reason
            log.warning("container %s lost its machine: %s", container.id[:12], ended.reason)
        else:
            code, oom, error = exit_code(status), status.oom_killed, ""
        if container.run is not None:
            await self._disconnect(container, container.run.pod)
        released = self._resources.release(container)
        started, now = record.started, time.time_ns()
        decision = decide(container.record.host_config.restart_policy, code, now - started, container.restart_history)
        container.short_runs = decision.short_runs
        container.exits += 1
        container.move(Exit(now, code, oom, error, decision.restarts))
        # Before anything else waits: clients that saw the end find its events.
        seconds = max(0, (record.finished - started) // 1_000_000_000)
        if oom:
            self._repository.emit(container, "oom")
        self._repository.emit(container, "die", exitCode=str(code), execDuration=str(seconds))
        self._resources.announce_end(container, released)
        removed = record.host_config.auto_remove
        if not removed:
            await self._repository.save(container)
        container.stdin.renew()
        container.fanout.end_run()
        container.notify_log()
        if removed:
            self._auto_removals.send_nowait(container)
        elif decision.restart_after is not None:
            self._tasks.start_soon(self._restart_later, container, decision.restart_after)

    async def _restart_later(self, container: Container, seconds: float) -> None:
        container.record.restarts += 1
        with trio.move_on_after(seconds):
            while not container.removed and container.restarting:
                await container.changed.wait()
        await self._pods.wait_targets(container)
        async with container.lock:
            # The end of the last machine takes a while, in which a client may stop the container.
            await self.wait_no_machine(container)
            if container.restarting and not container.removed:
                try:
                    await self.start(container)
                except (VchError, NotModified) as error:
                    log.warning("restart of container %s: %s", container.id[:12], error)
                    container.move(GiveUp())

    def restart_after_boot(self, container: Container) -> None:
        """The daemon has started: start a container that is down, if its restart policy says so."""
        record = container.record
        if not isinstance(container.state, Exited) or not record.started:
            return
        decision = decide_after_boot(
            container.record.host_config.restart_policy, container.state.exit_code, container.restart_history
        )
        if decision.restart_after is not None:
            container.short_runs = decision.short_runs
            record.stopped_by_user = False
            container.state = replace(container.state, restarting=True)
            self._tasks.start_soon(self._restart_later, container, decision.restart_after)

    async def abandon(self, container: Container, attempt: StartAttempt) -> None:
        """Undo a start that an earlier daemon began and that did not get as far as a process."""
        self._left(container)
        if container.run is not None:
            container.run.gone.set()
        self._resources.release(container)
        container.move(NeverStarted(attempt.before))
        await self._repository.save(container)


async def _wait_and_log(wait: Callable[[], Awaitable[None]], container: Container, why: Callable[[], str]) -> None:
    """Call `wait` until it returns. A wait that takes long leaves lines in the log, each with the newest reason."""
    began = trio.current_time()
    while True:
        with trio.move_on_after(_SLOW_SECONDS):
            await wait()
            return
        seconds = trio.current_time() - began
        log.warning("the start of container %s takes %.0f s already; %s", container.id[:12], seconds, why())
