"""Execs: further processes in a running container. Their records outlive the daemon, so a later daemon knows them by their ids."""

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import trio

from appliance.container.exec_config import ExecConfig, ExecRecord
from appliance.container.spec import build_exec_spec
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.containers.exec_takeover import ExecTakeover
from appliance.engine.machines.boot import exec_error
from appliance.engine.machines.guest_config import ProcessConfig
from appliance.engine.model.container import Container
from appliance.engine.model.exec_repository import ExecRepository
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Run
from appliance.errors import Conflict, InvalidParameter, NotFound, VchError, leaves, unforeseen
from appliance.guest import Fanout, GuestSession, Output, ProcessSetup, StartRefused, StdinPipe, exit_code

log = logging.getLogger(__name__)

_START_SECONDS = 60.0
# Clients ask for the exit code after the end (moby forgets ended execs every five minutes).
_KEPT_SECONDS = 300.0
# For each container, ended execs included. An exec costs the guest a process, and both sides memory.
_MOST = 1000
_ACK_BYTES = 128 << 10


@dataclass(slots=True)
class Exec:
    """One exec. `exit_code` is None until it has ended; `began`: it was started.

    `takeover` is set while an earlier daemon's exec waits for a client that takes its output.
    """

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
    takeover: ExecTakeover | None = None

    @property
    def record(self) -> ExecRecord:
        return ExecRecord(container=self.container.id, config=self.config, began=self.began, exit_code=self.exit_code)

    @property
    def tty(self) -> bool:
        return self.config.tty

    @property
    def command(self) -> list[str]:
        return list(self.config.cmd or ())


class Execs:
    """`nursery` owns the execs that run; `records` are their records. Errors carry Docker's texts.

    `configure` returns the configuration of a further process in a container.
    """

    def __init__(
        self,
        registry: ContainerRegistry,
        repository: ContainerRepository,
        records: ExecRepository,
        configure: Callable[[Container], ProcessConfig],
        nursery: trio.Nursery,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._records = records
        self._configure = configure
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

    async def create(self, ref: str, config: ExecConfig) -> Exec:
        """Register an exec. Conflict when the container does not run."""
        container = self._registry.get(ref)
        await self._session(container, ref)
        if not config.cmd:
            raise InvalidParameter("No exec command specified")
        self._spec(container, config)
        self._collect()
        if len(self.ids_of(container.id)) >= _MOST:
            raise Conflict(f"container {container.id} has {_MOST} execs: wait until some have ended")
        one = Exec(secrets.token_hex(32), container, config)
        self._execs[one.id] = one
        self._records.queue(one.id, one.record)
        self._emit(one, f"exec_create: {' '.join(one.command)}")
        return one

    async def start(self, exec_id: str) -> None:
        """Return once the process runs. Conflict when the exec ran before; InvalidParameter or VchError when it cannot start.

        The first client that attaches to an exec of an earlier daemon gets the output that the guest still has.
        """
        one = self.get(exec_id)
        if one.takeover is not None and one.fanout.attached:
            one.takeover.claim()
            return
        if one.exit_code is not None:
            raise Conflict(f"Error: Exec command {one.id} has already run")
        if not one.began:
            session = await self._session(one.container, one.container.id)
        if one.began:
            raise Conflict(f"Error: Exec command {one.id} is already running")
        spec = self._spec(one.container, one.config)
        one.began = one.running = True
        self._records.queue(one.id, one.record)
        self._emit(one, f"exec_start: {' '.join(one.command)}")
        outcome: list[VchError] = []
        ready = trio.Event()
        self._tasks.start_soon(self._run, one, spec, session, ready, outcome)
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
                self._forget(one)

    # -- execs of an earlier daemon -------------------------------------------------------------------------------

    def restore(self, container: Container) -> None:
        """Register the execs of a container whose run goes on since an earlier daemon."""
        for exec_id, record in self._records.take(container.id).items():
            one = self._execs[exec_id] = Exec(exec_id, container, record.config, began=record.began)
            one.exit_code = record.exit_code
            one.running = one.began and one.exit_code is None
            one.ended_at = time.monotonic()

    def restored(self) -> None:
        """Forget the execs of containers whose runs have ended while no daemon ran."""
        self._records.drop_unclaimed()

    async def resume(self, container: Container, run: Run) -> None:
        """Take over the execs that the guest of a resumed run has."""
        # Processes that this daemon launches have a reader already.
        launching = run.session.launching
        processes = {
            key: process
            for key, process in (await run.session.processes()).items()
            if process.join == container.id and key not in launching
        }
        for one in self._execs.values():
            if one.container is container and one.running and one.id not in processes.keys() | launching:
                # The earlier daemon ended before the guest had received the start.
                one.began = one.running = False
        for process in processes.values():
            unrecorded = ExecConfig(tty=process.terminal, attach_stdout=True, attach_stderr=True)
            one = self._execs.setdefault(process.id, Exec(process.id, container, unrecorded))
            one.began, one.pid = True, process.pid
            one.running = one.exit_code is None
            one.takeover = ExecTakeover(process.acknowledged_offset)
            self._tasks.start_soon(self._take_over, one, one.takeover, run.session)

    async def _take_over(self, one: Exec, takeover: ExecTakeover, session: GuestSession) -> None:
        """Keep the output until a client takes it, then hand it over. The guest forgets an ended exec after a while."""
        code = 137  # the code if the machine ends before the process
        try:
            status = await takeover.keep(session, one.id)
            if status is not None:
                code = exit_code(status)
                if one.running:
                    self._record_end(one, code)
                await takeover.wait_claimed(_KEPT_SECONDS)
            one.takeover = None
            if takeover.claimed:
                code = await self._hand_over(one, session, takeover.offset, None)
        except* VchError as group:
            log.info("exec %s of an earlier daemon: %s", one.id[:12], leaves(group)[0])
        one.takeover = None
        if one.running:
            self._record_end(one, code)
        await self._end(one, session)

    @staticmethod
    async def _session(container: Container, ref: str) -> GuestSession:
        await container.wait_recovered()
        if container.restarting:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        run = await container.require_run()
        if container.paused:
            raise Conflict(f"Container {ref} is paused, unpause the container before exec")
        return run.session

    def _collect(self) -> None:
        now = time.monotonic()
        for one in list(self._execs.values()):
            if one.exit_code is not None and now - one.ended_at > _KEPT_SECONDS:
                self._forget(one)

    def _forget(self, one: Exec) -> None:
        if self._execs.pop(one.id, None) is not None:
            self._records.remove(one.id)

    def _emit(self, one: Exec, action: str, **attributes: str) -> None:
        self._repository.emit(one.container, action, execID=one.id, **attributes)

    def _spec(self, container: Container, config: ExecConfig) -> bytes:
        own = self._configure(container)
        return build_exec_spec(own.config, own.host_config, config)

    async def _run(
        self, one: Exec, spec: bytes, session: GuestSession, ready: trio.Event, outcome: list[VchError]
    ) -> None:
        process = ProcessSetup(
            one.id,
            spec,
            join=one.container.id,
            stdin=one.config.attach_stdin,
            rows=one.size[0],
            columns=one.size[1],
        )
        code = 137  # the code if the machine ends before the process
        started = False
        try:
            async with session.launch(None, process, _START_SECONDS) as launched:
                started = True
                one.pid = launched.started.pid
                if one.tty and one.size != (process.rows, process.columns):
                    # The client resized the terminal during the start.
                    await session.resize(one.id, *one.size)
                ready.set()
                code = await self._hand_over(one, session, 0, launched.output())
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
        self._record_end(one, code, started=started)
        ready.set()
        await self._end(one, session if started else None)

    @staticmethod
    async def _hand_over(
        one: Exec, session: GuestSession, offset: int, output: AsyncGenerator[Output, None] | None
    ) -> int:
        """Hand the clients' input to the process and its output, from `offset` on, to the clients. Return the exit code.

        `output` is a stream that is open already. VchError when the guest fails or is gone.
        """
        code = 137
        acknowledged = offset
        async with trio.open_nursery() as nursery:
            if one.config.attach_stdin:
                nursery.start_soon(one.stdin.run, session, one.id)
            async with aclosing(session.follow(one.id, offset, output)) as batches:
                async for batch in batches:
                    await one.fanout.publish_all([(record.stream, record.data) for record in batch.records])
                    if batch.records:
                        offset = batch.records[-1].end
                    if batch.exit is not None:
                        code = exit_code(batch.exit)
                    elif offset - acknowledged >= _ACK_BYTES:
                        await session.acknowledge(one.id, offset)
                        acknowledged = offset
            nursery.cancel_scope.cancel()
        return code

    def _record_end(self, one: Exec, code: int, *, started: bool = True) -> None:
        """Before the streams end: clients ask for the exit code right after that."""
        one.running = False
        one.exit_code = code
        one.ended_at = time.monotonic()
        if started:
            self._emit(one, "exec_die", exitCode=str(code))

    async def _end(self, one: Exec, session: GuestSession | None) -> None:
        """End the streams of an exec whose end is recorded, and remove the exec from the guest if the guest has it."""
        one.fanout.end_run()
        one.stdin.renew()
        if one.id not in self._execs or not one.container.running:
            self._forget(one)
        try:
            if one.id in self._execs:
                # The guest keeps the exit code until the record has it.
                await self._records.queue(one.id, one.record).wait()
            if session is not None:
                await session.delete_process(one.id)
        except VchError:
            pass
