"""Execs: further processes in a running container. Only this process knows them: a restart of the daemon forgets them."""

import logging
import secrets
import time
from contextlib import aclosing
from dataclasses import dataclass, field

import trio

from appliance.container.exec_config import ExecConfig
from appliance.container.spec import build_exec_spec
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.machines.boot import exec_error
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Run
from appliance.errors import Conflict, InvalidParameter, NotFound, VchError, leaves, unforeseen
from appliance.guest import Fanout, GuestSession, ProcessSetup, StartRefused, StdinPipe, exit_code

log = logging.getLogger(__name__)

_START_SECONDS = 60.0
# Clients ask for the exit code after the end (moby forgets ended execs every five minutes).
_KEPT_SECONDS = 300.0
# For each container, ended execs included. An exec costs the guest a process, and both sides memory.
_MOST = 1000
_ACK_BYTES = 128 << 10


@dataclass(slots=True)
class Exec:
    """One exec. `exit_code` is None until it has ended; `began`: it was started."""

    id: str
    container: Container
    config: ExecConfig
    fanout: Fanout = field(default_factory=Fanout)
    stdin: StdinPipe = field(default_factory=StdinPipe)
    began: bool = False
    running: bool = False
    exit_code: int | None = None
    pid: int = 0
    size: tuple[int, int] = (0, 0)
    ended_at: float = 0.0

    @property
    def tty(self) -> bool:
        return self.config.tty

    @property
    def command(self) -> list[str]:
        return list(self.config.cmd or ())


class Execs:
    """`nursery` owns the execs that run. Errors carry Docker's texts."""

    def __init__(self, registry: ContainerRegistry, repository: ContainerRepository, nursery: trio.Nursery) -> None:
        self._registry = registry
        self._repository = repository
        self._tasks = IsolatedTasks(nursery)
        self._execs: dict[str, Exec] = {}

    def ids_of(self, ref: str) -> list[str]:
        """Ids of a container's execs. Execs of an earlier run are found by their id only."""
        container = self._registry.get(ref)
        return [one.id for one in self._execs.values() if one.container is container] if container.running else []

    def get(self, exec_id: str) -> Exec:
        found = self._execs.get(exec_id)
        if found is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return found

    def create(self, ref: str, config: ExecConfig) -> Exec:
        """Register an exec. Conflict when the container does not run."""
        container = self._registry.get(ref)
        self._session(container, ref)
        if not config.cmd:
            raise InvalidParameter("No exec command specified")
        build_exec_spec(container.record.config, container.record.host_config, config)
        self._collect()
        if len(self.ids_of(container.id)) >= _MOST:
            raise Conflict(f"container {container.id} has {_MOST} execs: wait until some have ended")
        one = Exec(secrets.token_hex(32), container, config)
        self._execs[one.id] = one
        self._emit(one, f"exec_create: {' '.join(one.command)}")
        return one

    async def start(self, exec_id: str) -> None:
        """Return once the process runs. Conflict when the exec ran before; InvalidParameter or VchError when it cannot start."""
        one = self.get(exec_id)
        if one.exit_code is not None:
            raise Conflict(f"Error: Exec command {one.id} has already run")
        if one.began:
            raise Conflict(f"Error: Exec command {one.id} is already running")
        session = self._session(one.container, one.container.id)
        one.began = one.running = True
        self._emit(one, f"exec_start: {' '.join(one.command)}")
        outcome: list[VchError] = []
        ready = trio.Event()
        self._tasks.start_soon(self._run, one, session, ready, outcome)
        with trio.CancelScope(shield=True):
            await ready.wait()
        if outcome:
            raise outcome[0]

    async def resize(self, exec_id: str, rows: int, columns: int) -> None:
        one = self.get(exec_id)
        one.size = (rows, columns)
        run = one.container.run
        if one.running and one.tty and one.pid and run is not None:
            await run.session.resize(one.id, rows, columns)

    async def watch(self, container: Container, run: Run) -> None:
        """Forget the execs of a run when the run is over."""
        await container.wait_end_of(run)
        for one in list(self._execs.values()):
            if one.container is container and not one.running:
                del self._execs[one.id]

    @staticmethod
    def _session(container: Container, ref: str) -> GuestSession:
        if container.restarting:
            raise Conflict(f"Container {ref} is restarting, wait until the container is running")
        if not container.running or container.run is None:
            raise Conflict(f"Container {container.id} is not running")
        if container.paused:
            raise Conflict(f"Container {ref} is paused, unpause the container before exec")
        return container.run.session

    def _collect(self) -> None:
        now = time.monotonic()
        for one in list(self._execs.values()):
            if one.exit_code is not None and now - one.ended_at > _KEPT_SECONDS:
                del self._execs[one.id]

    def _emit(self, one: Exec, action: str, **attributes: str) -> None:
        self._repository.emit(one.container, action, execID=one.id, **attributes)

    async def _run(self, one: Exec, session: GuestSession, ready: trio.Event, outcome: list[VchError]) -> None:
        container = one.container.record
        process = ProcessSetup(
            one.id,
            build_exec_spec(container.config, container.host_config, one.config),
            join=one.container.id,
            stdin=one.config.attach_stdin,
            rows=one.size[0],
            columns=one.size[1],
        )
        code = 137  # the code if the machine ends before the process
        started = False
        try:
            async with trio.open_nursery() as nursery, session.launch(None, process, _START_SECONDS) as launched:
                started = True
                one.pid = launched.started.pid
                if one.tty and one.size != (process.rows, process.columns):
                    # The client resized the terminal during the start.
                    await session.resize(one.id, *one.size)
                ready.set()
                if one.config.attach_stdin:
                    nursery.start_soon(one.stdin.run, session, one.id)
                offset = acknowledged = 0
                async with aclosing(session.follow(one.id, 0, launched.output())) as output:
                    async for batch in output:
                        for record in batch.records:
                            await one.fanout.publish(record.stream, record.data)
                            offset = record.end
                        if batch.exit is not None:
                            code = exit_code(batch.exit)
                        elif offset - acknowledged >= _ACK_BYTES:
                            await session.acknowledge(one.id, offset)
                            acknowledged = offset
                nursery.cancel_scope.cancel()
        except* StartRefused as group:
            (refused,) = (error for error in leaves(group) if isinstance(error, StartRefused))
            text, code = exec_error(refused)
            outcome.append(text)
        except* VchError as group:
            if not started:
                code = 126
                outcome.append(VchError(str(leaves(group)[0])))
            elif one.container.running:
                log.warning("exec %s of container %s: %s", one.id[:12], one.container.id[:12], leaves(group)[0])
        except* Exception as group:
            # Clients that wait for the start or the end must get an answer.
            log.exception("exec %s of container %s failed", one.id[:12], one.container.id[:12])
            if not started:
                code = 126
                outcome.append(unforeseen(leaves(group)[0]))
        # Recorded before the streams end: clients ask for the exit code right after that.
        one.running = False
        one.exit_code = code
        one.ended_at = time.monotonic()
        one.fanout.end_run()
        one.stdin.renew()
        ready.set()
        if started:
            self._emit(one, "exec_die", exitCode=str(code))
            try:
                await session.delete_process(one.id)
            except VchError:
                pass
        if not one.container.running:
            self._execs.pop(one.id, None)


async def drain(session: GuestSession, process_id: str, offset: int) -> None:
    """Read the output of an earlier daemon's exec from `offset` on, so that it does not block, and forget the exec when it ends."""
    try:
        async with aclosing(session.follow(process_id, offset)) as output:
            async for batch in output:
                if batch.records:
                    await session.acknowledge(process_id, batch.records[-1].end)
        await session.delete_process(process_id)
    except VchError as error:
        log.info("exec %s of an earlier daemon: %s", process_id[:12], error)
