"""A container in memory: its record, its state, its attached clients, its run."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import trio

from appliance.container import lifecycle
from appliance.container.container_record import ContainerRecord
from appliance.container.health import Health
from appliance.container.lifecycle import Created, Exited, Running, State
from appliance.container.restart import History
from appliance.diag import Trace
from appliance.engine.model.run import Run
from appliance.errors import Conflict
from appliance.guest import Fanout, StdinPipe
from appliance.logdrivers import LogDriver, LogLimits, driver_named
from appliance.network.network_record import Endpoint
from appliance.streams.logfile import LogFile

# How long after the start of vchd requests wait for the guest of a container that an earlier vchd started.
_RECOVERY_SECONDS = 30


def _already_set() -> trio.Event:
    event = trio.Event()
    event.set()
    return event


@dataclass(slots=True)
class Container:
    """One container. `changed` is replaced and set at every change of state.

    `abort` cancels a start under way. `recovery_deadline`, in trio's time, is finite while vchd has yet to learn from the guest how the
    run of an earlier vchd stands. `expected_exit`: a checkpoint ends the machine, so that end is not a failure.
    """

    record: ContainerRecord
    folder: Path
    state: State
    fanout: Fanout = field(default_factory=Fanout)
    stdin: StdinPipe = field(default_factory=StdinPipe)
    lock: trio.Lock = field(default_factory=trio.Lock)
    changed: trio.Event = field(default_factory=trio.Event)
    log_news: trio.Event = field(default_factory=trio.Event)
    log: LogFile | None = None
    run: Run | None = None
    abort: trio.CancelScope | None = None
    expected_exit: bool = False
    health: Health | None = None
    # Set while no log driver sends the log to a server.
    log_shipped: trio.Event = field(default_factory=_already_set)
    exits: int = 0
    # See container/restart.py.
    short_runs: int = 0
    trace: Trace = field(default_factory=Trace)
    removed: bool = False
    recovery_deadline: float = -math.inf
    size: tuple[int, int] = (0, 0)
    # One for each network, while the container has a machine.
    endpoints: list[Endpoint] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def tty(self) -> bool:
        return self.record.config.tty

    @property
    def running(self) -> bool:
        return isinstance(self.state, Running)

    @property
    def paused(self) -> bool:
        return isinstance(self.state, Running) and self.state.paused

    @property
    def restarting(self) -> bool:
        return isinstance(self.state, Exited) and self.state.restarting

    @property
    def restart_history(self) -> History:
        return History(self.record.restarts, self.short_runs, self.record.stopped_by_user)

    @property
    def on_host_network(self) -> bool:
        return self.record.host_config.network_mode == "host"

    @property
    def upper(self) -> Path:
        """The disk that the container writes to."""
        return self.folder / "upper.ext4"

    @property
    def log_driver(self) -> LogDriver:
        return driver_named(self.record.log_driver)

    def open_log(self) -> LogFile:
        """The log file, opened at the first call."""
        if self.log is None:
            limits = self.log_driver.limits(self.record.log_options) or LogLimits()
            self.log = LogFile(self.folder, framed=not self.tty, piece=limits.size, pieces=limits.files)
        return self.log

    def open_log_if_kept(self) -> LogFile | None:
        """The log file, or None when the log driver keeps none."""
        return None if self.log_driver.limits(self.record.log_options) is None else self.open_log()

    def move(self, event: lifecycle.Event) -> None:
        """Advance the state, update the record, and wake the tasks that wait for `changed`."""
        self.state = lifecycle.advance(self.state, event)
        match self.state:
            case Created(error, code):
                self.record.state, self.record.error, self.record.exit_code = "created", error, code
            case Running(started, _, False):
                self.record.state, self.record.started, self.record.error = "running", started, ""
                self.record.exit_code, self.record.finished, self.record.oom_killed = 0, 0, False
            case Exited(started, finished, code, oom, error, _):
                self.record.state, self.record.started, self.record.finished = "exited", started, finished
                self.record.exit_code, self.record.oom_killed, self.record.error = code, oom, error
            case _:
                pass
        if not self.running:
            self.recovery_deadline = -math.inf
        self.notify()

    def notify(self) -> None:
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    def begin_recovery(self) -> None:
        """The container ran under an earlier vchd: until `end_recovery` or the end of the run, requests wait for the guest."""
        self.recovery_deadline = trio.current_time() + _RECOVERY_SECONDS

    def end_recovery(self) -> None:
        self.recovery_deadline = -math.inf
        self.notify()

    async def wait_recovered(self) -> None:
        """Return when the state is the guest's, not only that of the record; at the latest when `recovery_deadline` has passed."""
        if self.recovery_deadline == -math.inf:
            # A list asks each of its containers. Without this, a cancel scope for each took as long as the rest of the answer.
            return
        with trio.move_on_at(self.recovery_deadline):
            while self.recovery_deadline > -math.inf:
                await self.changed.wait()

    async def current_run(self) -> Run | None:
        """The run of a container that runs, else None. Waits until the container is recovered."""
        await self.wait_recovered()
        return self.run if self.running else None

    async def require_run(self) -> Run:
        """The run of a container that runs, when the container is recovered. Conflict in Docker's words when it does not run."""
        run = await self.current_run()
        if run is None:
            raise Conflict(f"container {self.id} is not running")
        return run

    async def wait_end_of(self, run: Run) -> None:
        """Return when this run of the container is over."""
        while self.running and self.run is run:
            await self.changed.wait()

    def notify_log(self) -> None:
        news, self.log_news = self.log_news, trio.Event()
        news.set()
