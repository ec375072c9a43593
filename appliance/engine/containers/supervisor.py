"""A container's runs: from a start over the end to a restart; and taking up those of an earlier appliance."""

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from appliance.container import lifecycle
from appliance.container.lifecycle import (
    Exit,
    Exited,
    GiveUp,
    NeverStarted,
    Pause,
    Running,
    Start,
    Started,
    StartFailed,
    Starting,
)
from appliance.container.restart import Policy, decide, decide_after_boot
from appliance.diag import Trace, mark
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.containers.execs import drain
from appliance.engine.containers.file_sessions import FileSessions
from appliance.engine.containers.health import HealthMonitor
from appliance.engine.logging.shipping import start_shipping
from appliance.engine.machines.boot import (
    begin_awakened,
    begin_found,
    begin_fresh,
    machine_spec,
    resource_shares,
    start_error,
)
from appliance.engine.machines.provisioner import MachineProvisioner
from appliance.engine.machines.suspend_watcher import SuspendWatcher, suspended_machine
from appliance.engine.model.container import Container
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Begun, Ended, Run, RunStreams
from appliance.engine.networking.connections import Connections
from appliance.engine.networking.dhcp_leases import DhcpLeases
from appliance.engine.networking.host_ports import HostPorts
from appliance.engine.networking.networks import Networks
from appliance.engine.volumes import Volumes
from appliance.errors import Conflict, InvalidParameter, NotModified, VchError, unforeseen
from appliance.guest import GuestSession, Phase, StartRefused, exit_code
from appliance.hypervisor import Machine, ResourceShares, SetShares
from appliance.image.store import ImageStore
from appliance.network.network_record import ingress_endpoint

if TYPE_CHECKING:
    # What it needs is loaded where there are such lines only.
    from appliance.guest.fast_path import FastPaths

log = logging.getLogger(__name__)

_AWAKE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a machine gets when its container does not say."""

    memory_mib: int
    cpus: int
    dns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint to go on from: the machine's state in `folder`, the output that the log has had at that moment."""

    folder: Path
    log_offset: int


class StartCancelled(Conflict):
    """Somebody stopped or removed the container while it was starting."""


@dataclass(slots=True)
class _Attempt:
    """A start under way. `before` is the state to fall back to."""

    before: lifecycle.State
    kept: Kept | None
    outcome: VchError | None = None
    ready: trio.Event = field(default_factory=trio.Event)

    def answer(self, error: VchError | None = None) -> None:
        if not self.ready.is_set():
            self.outcome = error
            self.ready.set()


class Supervisor:
    """`nursery` owns the runs; `on_end` is called when one has ended, `on_auto_remove` after that when its container has AutoRemove."""

    def __init__(
        self,
        machines: MachineProvisioner,
        file_sessions: FileSessions,
        images: ImageStore,
        networks: Networks,
        connections: Connections,
        volumes: Volumes,
        repository: ContainerRepository,
        suspend_watcher: SuspendWatcher,
        fast_paths: "FastPaths | None",
        nursery: trio.Nursery,
        defaults: Defaults,
        on_auto_remove: Callable[[Container], Awaitable[None]],
        on_end: Callable[[Container], None],
    ) -> None:
        self._provisioner = machines
        self._file_sessions = file_sessions
        self._images = images
        self._health = HealthMonitor(repository)
        self._fast_paths = fast_paths
        self._host_ports = HostPorts(networks.allocator, repository)
        self._leases = DhcpLeases(networks, repository)
        self._suspend_watcher = suspend_watcher
        self._networks = networks
        self._allocator = networks.allocator
        self._connections = connections
        self._volumes = volumes
        self._repository = repository
        self._tasks = IsolatedTasks(nursery)
        self._defaults = defaults
        self._on_auto_remove = on_auto_remove
        self._on_end = on_end

    # -- start ----------------------------------------------------------------------------------------------------

    async def start(self, container: Container, kept: Kept | None = None) -> None:
        """Start it; returns when its process runs. The container's lock is held.

        InvalidParameter with Docker's text when its program cannot be started, StartCancelled by `cancel`.
        """
        # Checked first, so that a second start is answered at once.
        lifecycle.advance(container.state, Start())
        await self.wait_machine_gone(container)
        await self._file_sessions.end(container)
        attempt = _Attempt(container.state, kept)
        container.move(Start())
        self._tasks.start_soon(self._run_guarded, container, attempt)
        # The start goes on if the client leaves: half a start helps nobody.
        with trio.CancelScope(shield=True):
            await attempt.ready.wait()
        if attempt.outcome is not None:
            raise attempt.outcome

    @staticmethod
    async def wait_machine_gone(container: Container) -> None:
        if container.run is not None:
            await container.run.gone.wait()
            container.run = None

    async def cancel(self, container: Container) -> bool:
        """End a start that is under way, in the queue or later; False when there is none."""
        if not isinstance(container.state, Starting) or container.abort is None:
            return False
        container.abort.cancel()
        while isinstance(container.state, Starting):
            await container.changed.wait()
        return True

    async def _run_guarded(self, container: Container, attempt: _Attempt) -> None:
        """A run, whose failure is the container's and nobody else's."""
        machine: list[Machine] = []
        try:
            with trio.CancelScope() as container.abort:
                await self._run(container, attempt, machine)
            if container.abort.cancelled_caught:
                with trio.CancelScope(shield=True):
                    for one in machine:
                        await one.destroy()
                raise StartCancelled(f"the start of container {container.id} was cancelled")
        except VchError as error:
            await self._failed(container, attempt, error)
        except Exception as error:
            log.exception("the run of container %s failed", container.id[:12])
            await self._failed(container, attempt, unforeseen(error))
        finally:
            container.abort = None
            attempt.answer()

    async def _failed(self, container: Container, attempt: _Attempt, error: VchError) -> None:
        if container.run is not None:
            container.run.gone.set()
        if isinstance(container.state, Running):
            await self._ended(container, Ended(None, str(error)))
            return
        self._allocator.release_all(container)
        self._volumes.release_disks(container)
        code = 128
        if isinstance(error, StartRefused):
            text, code = start_error(error)
            error = InvalidParameter(text)
        elif isinstance(error, StartCancelled):
            code = 137
        container.move(StartFailed(str(error), code, attempt.before))
        container.fanout.end_run()
        container.stdin.renew()
        await self._repository.save(container)
        attempt.answer(error)
        self._repository.emit(container, "die", exitCode=str(code))
        if container.record.host_config.auto_remove:
            self._tasks.start_soon(self._on_auto_remove, container)

    async def _run(self, container: Container, attempt: _Attempt, made: list[Machine]) -> None:
        record, kept = container.record, attempt.kept
        container.trace = Trace()
        container.trace.follow()
        self._allocator.acquire_all(container)
        for other in self._volumes.holders(container):
            if not other.running:
                # It is only looked into, or on its way out.
                await self._file_sessions.end(other)
                if isinstance(other.state, Exited) and other.run is not None:
                    await other.run.gone.wait()
        guest_config = replace(
            self._connections.guest_config(container), mount_plan=await self._volumes.mount_plan(container)
        )
        log_file = container.open_log_if_kept()
        record.run_offset = kept.log_offset if kept is not None else 0
        if log_file is not None:
            log_file.begin_run(record.run_offset)
            record.run_first_entry = log_file.entries
        saved = self._repository.queue(container)
        async with AsyncExitStack() as turn:
            await turn.enter_async_context(self._provisioner.turn())
            layers = self._images.layer_paths(record.image_id)
            nics = [endpoint.nic for endpoint in container.endpoints if endpoint.interface]
            spec = machine_spec(
                container, layers, nics, guest_config.mount_plan, self._defaults.memory_mib, self._defaults.cpus
            )
            machine, session = await self._provisioner.get(spec, made, kept.folder if kept is not None else None)
            mark("machine on")
            shares_wanted = resource_shares(record.host_config)
            if isinstance(machine, SetShares) and shares_wanted != ResourceShares():
                await machine.set_shares(shares_wanted)
            run = container.run = self._make_run(container, machine, session)

            async def begin(run: Run, stack: AsyncExitStack) -> Begun:
                # A process that runs is one that a killed appliance finds again.
                await saved.wait()
                mark("state saved")
                output = None
                if kept is None:
                    launched = await begin_fresh(
                        run.session, stack, container, machine, guest_config, self._leases.take
                    )
                    started, output = launched.started, launched.output()
                else:
                    started = await begin_awakened(run.session, container, guest_config)
                await turn.aclose()
                self._started(container, started.started_ns, started.pid)
                self._watch(container, run)
                self._tasks.start_soon(self._answer, container, attempt)
                return Begun(record.run_offset, output)

            await run.supervise(begin, lambda ended: self._ended(container, ended))

    def _started(self, container: Container, at: int, pid: int) -> None:
        """Its process runs."""
        container.move(Started(at, pid))
        for endpoint in container.endpoints:
            self._networks.emit("connect", container, endpoint)
        self._volumes.emit("mount", container)
        self._repository.emit(container, "start")
        self._tasks.start_soon(self._connections.notify_linked, container)

    def _watch(self, container: Container, run: Run) -> None:
        """What goes on beside a run."""
        self._tasks.start_soon(self._health.watch, container, run)
        self._tasks.start_soon(self._host_ports.watch, container, run)
        self._tasks.start_soon(self._suspend_watcher.watch, container, run)
        self._tasks.start_soon(self._leases.watch, container, run, self._connections.refresh)
        if self._fast_paths is not None:
            self._tasks.start_soon(self._speed_up, self._fast_paths, container, run)
        start_shipping(container, self._tasks)

    @staticmethod
    async def _speed_up(fast_paths: "FastPaths", container: Container, run: Run) -> None:
        """Have a quicker line to the guest as long as the run lasts."""

        def ours() -> str:
            # On an internal network we are its gateway too, if to nowhere else; on an external one we are not.
            allocator = (
                ingress_endpoint(container.endpoints),
                *(one for one in container.endpoints if not one.network.is_external),
            )
            return next((one.ipv4.gateway for one in allocator if one is not None and one.ipv4 is not None), "")

        await run.accompany(fast_paths.keep, run.session, ours)

    async def _answer(self, container: Container, attempt: _Attempt) -> None:
        """The process runs already, and what it says is on its way: only the answer waits for the disk."""
        try:
            await self._repository.save(container)
        except VchError as error:
            log.error("container %s runs, but: %s", container.id[:12], error)
        mark("state saved again")
        attempt.answer()

    def _make_run(self, container: Container, machine: Machine, session: GuestSession) -> Run:
        streams = RunStreams(
            container.fanout,
            container.stdin if container.record.config.open_stdin else None,
            container.open_log_if_kept(),
            container.notify_log,
        )
        return Run(
            container.id,
            machine,
            session,
            streams,
            lambda: self._volumes.release_disks(container),
            # A volume outlives its container.
            cleans_disks=bool(container.record.mounts) or not container.record.host_config.auto_remove,
        )

    # -- end ------------------------------------------------------------------------------------------------------

    async def _ended(self, container: Container, ended: Ended) -> None:
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
        left = self._allocator.release_all(container)
        started, now = record.started, time.time_ns()
        decision = decide(_policy_of(container), code, now - started, container.restart_history)
        container.short_runs = decision.short_runs
        container.exits += 1
        container.move(Exit(now, code, oom, error, decision.restarts))
        # At once, so that whoever waited for the end finds its events.
        seconds = max(0, (record.finished - started) // 1_000_000_000)
        if oom:
            self._repository.emit(container, "oom")
        self._repository.emit(container, "die", exitCode=str(code), execDuration=str(seconds))
        for endpoint in left:
            self._networks.emit("disconnect", container, endpoint)
        self._volumes.emit("unmount", container)
        removed = record.host_config.auto_remove
        if not removed:
            await self._repository.save(container)
        self._on_end(container)
        container.stdin.renew()
        container.fanout.end_run()
        container.notify_log()
        if removed:
            self._tasks.start_soon(self._on_auto_remove, container)
        elif decision.restart_after is not None:
            self._tasks.start_soon(self._restart_later, container, decision.restart_after)

    async def _restart_later(self, container: Container, seconds: float) -> None:
        container.record.restarts += 1
        with trio.move_on_after(seconds):
            while not container.removed and container.restarting:
                await container.changed.wait()
        async with container.lock:
            if container.restarting and not container.removed:
                try:
                    await self.start(container)
                except (VchError, NotModified) as error:
                    log.warning("restart of container %s: %s", container.id[:12], error)
                    container.move(GiveUp())

    def restart_after_boot(self, container: Container) -> None:
        """Start a container that is down when the daemon starts, if its restart policy says so."""
        record = container.record
        if not isinstance(container.state, Exited) or not record.started:
            return
        decision = decide_after_boot(_policy_of(container), container.state.exit_code, container.restart_history)
        if decision.restart_after is not None:
            container.short_runs = decision.short_runs
            record.stopped_by_user = False
            container.state = replace(container.state, restarting=True)
            self._tasks.start_soon(self._restart_later, container, decision.restart_after)

    # -- after a restart of this process --------------------------------------------------------------------------

    async def take_up(self, container: Container, machine: Machine) -> None:
        """Go on with a machine that an earlier appliance left running."""
        self._allocator.reacquire_all(container)
        self._volumes.hold_disks(container)
        if container.running:
            self._tasks.start_soon(self._resume_guarded, container, machine)
        else:
            await self._tasks.start(self._resume_start, container, machine)

    async def _resume_start(
        self, container: Container, machine: Machine, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Its start was under way, or somebody looked into it: until that is known, nobody else does anything with it."""
        async with container.lock:
            attempt = _Attempt(container.state, None)
            container.move(Start())
            self._tasks.start_soon(self._resume_guarded, container, machine, attempt)
            task_status.started()
            await attempt.ready.wait()

    async def lost(self, container: Container) -> None:
        """Its machine is not there any more."""
        if container.running:
            await self._ended(container, Ended(None, "the machine ended while the appliance was away"))
        elif container.record.bindings or any(one.endpoint for one in container.record.attachments):
            self._allocator.forget(container)
            await self._repository.save(container)

    async def _resume_guarded(self, container: Container, machine: Machine, attempt: _Attempt | None = None) -> None:
        try:
            with trio.CancelScope() as scope:
                if attempt is not None:
                    container.abort = scope
                await self._resume(container, machine, attempt)
            if scope.cancelled_caught:
                with trio.CancelScope(shield=True):
                    await machine.destroy()
                raise StartCancelled(f"the start of container {container.id} was cancelled")
        except Exception as error:
            if not isinstance(error, VchError):
                log.exception("taking container %s up again failed", container.id[:12])
            if container.running:
                await self._ended(container, Ended(None, str(error)))
            elif attempt is not None:
                log.info("container %s was not started: %s", container.id[:12], error)
                await self._never_started(container, attempt)
                if not isinstance(error, StartCancelled):
                    self.restart_after_boot(container)
        finally:
            if attempt is not None:
                container.abort = None
                attempt.answer()

    async def _never_started(self, container: Container, attempt: _Attempt) -> None:
        if container.run is not None:
            container.run.gone.set()
        self._allocator.release_all(container)
        self._volumes.release_disks(container)
        container.move(NeverStarted(attempt.before))
        await self._repository.save(container)

    async def _resume(self, container: Container, machine: Machine, attempt: _Attempt | None) -> None:
        record = container.record
        log_file = container.open_log_if_kept()
        if log_file is not None and log_file.entries <= record.run_first_entry:
            log_file.begin_run(record.run_offset)
        try:
            run = self._make_run(container, machine, await self._provisioner.dial(machine))
        except VchError:
            await trio.lowlevel.checkpoint_if_cancelled()
            await machine.destroy()
            raise
        container.run = run

        async def begin(run: Run, _: AsyncExitStack) -> Begun:
            if (asleep := suspended_machine(container)) is not None:
                # It answers when somebody wakes it up.
                if container.running and not container.paused:
                    container.move(Pause(container.id))
                while (placement := asleep.placement).suspended:
                    await asleep.wait_changed(placement)
                await run.session.awaken(_AWAKE_SECONDS)
            state = await begin_found(run.session, container)
            if attempt is not None:
                self._started(container, state.started_ns, state.pid)
                await self._repository.save(container)
                attempt.answer()
            if state.phase is not Phase.PAUSED:
                self._suspend_watcher.unpause(container)
            elif not container.paused:
                container.move(Pause(container.id))
            self._watch(container, run)
            for process in (await run.session.processes()).values():
                # One that was asked for since is no earlier appliance's.
                if process.join and process.id not in run.session.launching:
                    self._tasks.start_soon(drain, run.session, process.id, process.acknowledged_offset)
            return Begun(log_file.guest_offset if log_file is not None else state.acknowledged_offset)

        await run.supervise(begin, lambda ended: self._ended(container, ended))


def _policy_of(container: Container) -> Policy:
    policy = container.record.host_config.restart_policy
    return Policy(policy.name or "", policy.maximum_retry_count or 0)
