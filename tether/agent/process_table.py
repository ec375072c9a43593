"""The table of processes, and the life of each: created, started, its output read, ended, deleted."""

import enum
import errno
import fcntl
import hashlib
import itertools
import os
import re
import signal
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import trio

from protos.tether.v1 import process_pb2
from tether.agent.reaper import Reaper
from tether.agent.stdio import STDERR, STDOUT, Spool, Stdin, pump_out
from tether.launch import oci
from tether.launch.failure import Kind, LaunchFailure
from tether.launch.launcher import Launched, Prepared, launch
from tether.launch.launcher import Stdio as ChildStdio
from tether.launch.limits import cgroup_files
from tether.launch.namespaces import Namespaces, open_namespace
from tether.launch.spec import Spec, parse_spec_untrusted
from tether.rpc.status import Code, RpcError
from tether.system.cgroup import Cgroup

ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_DEFAULT_SPOOL = 1 << 20
_LEAST_SPOOL, _MOST_SPOOL = 4 << 10, 64 << 20
_PIPE = 256 << 10
_OUTPUT_SECONDS = 2.0


class Phase(enum.IntEnum):
    CREATED = process_pb2.ProcessState.CREATED
    STARTING = 100
    RUNNING = process_pb2.ProcessState.RUNNING
    EXITED = process_pb2.ProcessState.EXITED
    FAILED = 101


@dataclass(slots=True)
class Entry:
    """One process. `join` is the id of the process whose container it runs in, empty for a container's first process.

    `shares` are the ids of processes whose namespaces a first process enters, by kind: "network", "pid", "ipc".
    `started` is set when the start has succeeded or failed (`failure`). `reaped` is set when the process has exited: another
    process may have its pid then. `ended` is set when its output has its last offset, too.
    """

    id: str
    # Of the request that made it: the same id with another request is an error.
    digest: bytes
    spec: Spec
    join: str
    shares: dict[str, str]
    spool: Spool
    has_stdin: bool
    size: tuple[int, int]
    phase: Phase = Phase.CREATED
    stdin: Stdin | None = None
    stdin_read: int = -1
    terminal: int = -1
    pid: int = 0
    started_ns: int = 0
    exit: process_pb2.ExitStatus | None = None
    failure: LaunchFailure | RpcError | None = None
    started: trio.Event = field(default_factory=trio.Event)
    reaped: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    cgroup: Cgroup | None = None
    oom_before: int = 0
    # Reads the output; cancelled when nobody wants the rest of it.
    output: trio.CancelScope | None = None


class ProcessTable:
    """All processes that the appliance has asked for, by id. Creating and starting are idempotent by id.

    A lost answer therefore never starts a process twice.
    """

    def __init__(self, nursery: trio.Nursery, reaper: Reaper) -> None:
        self._nursery = nursery
        self._reaper = reaper
        self._entries: dict[str, Entry] = {}
        self._prepared: tuple[Prepared, Cgroup] | None = None
        self._groups = itertools.count(1)

    def prepare(self) -> None:
        """Fork a child for the container to come, unless there is one."""
        if self._prepared is None:
            cgroup = self._new_cgroup()
            cgroup.create()
            group = cgroup.open()
            try:
                self._prepared = Prepared(group), cgroup
            finally:
                os.close(group)

    def _new_cgroup(self) -> Cgroup:
        return Cgroup(f"container-{next(self._groups)}")

    # -- looking up -----------------------------------------------------------------------------------------------

    def find(self, process_id: str) -> Entry:
        """RpcError NOT_FOUND when there is no such process."""
        entry = self._entries.get(process_id)
        if entry is None:
            raise RpcError(Code.NOT_FOUND, f"no such process: {process_id[:128]}")
        return entry

    def find_running(self, process_id: str) -> Entry:
        """The same; FAILED_PRECONDITION when the process does not run."""
        entry = self.find(process_id)
        if entry.phase is not Phase.RUNNING or entry.reaped.is_set():
            raise RpcError(Code.FAILED_PRECONDITION, f"process {process_id} is not running")
        return entry

    def stdio_of(self, process_id: str) -> tuple[Stdin | None, Spool]:
        entry = self.find(process_id)
        return entry.stdin, entry.spool

    def pid_of(self, process_id: str) -> int:
        return self.find_running(process_id).pid

    def cgroup_of(self, process_id: str) -> Cgroup:
        cgroup = self.find_running(process_id).cgroup
        assert cgroup is not None
        return cgroup

    def entries(self) -> Collection[Entry]:
        return self._entries.values()

    # -- create, start, delete ------------------------------------------------------------------------------------

    def create(self, request: process_pb2.CreateRequest) -> Entry:
        """Enter a process in the table; nothing runs yet. RpcError when the request cannot be fulfilled."""
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        known = self._entries.get(request.id)
        if known is not None:
            if known.digest != digest:
                raise RpcError(Code.ALREADY_EXISTS, f"process {request.id} exists with another spec")
            return known
        if not ID.fullmatch(request.id):
            raise RpcError(Code.INVALID_ARGUMENT, "a process id is 1 to 128 of [A-Za-z0-9_.-]")
        try:
            spec = parse_spec_untrusted(request.spec)
        except oci.SpecError as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from error
        if request.join:
            self.find(request.join)
        limit = min(max(request.spool_bytes or _DEFAULT_SPOOL, _LEAST_SPOOL), _MOST_SPOOL)
        entry = Entry(
            request.id,
            digest,
            spec,
            request.join,
            _shares(request),
            Spool(limit, request.drop_oldest),
            request.stdin,
            (min(request.rows, 65535), min(request.columns, 65535)),
        )
        if request.stdin and not spec.process.terminal:
            entry.stdin_read, writing = os.pipe2(os.O_CLOEXEC)
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
            entry.stdin = Stdin(writing)
        self._entries[request.id] = entry
        return entry

    async def start(self, process_id: str, network: int = -1) -> Entry:
        """Start a process; return once exec(2) has succeeded. A second start returns what the first one did.

        `network` is a descriptor of the network namespace that its container has for itself; -1: the guest's, or a shared one.

        RpcError with a StartFailure as its detail when the start has failed; without one when a namespace cannot be joined.
        """
        entry = self.find(process_id)
        if entry.phase is Phase.CREATED:
            entry.phase = Phase.STARTING
            # In a task of the nursery: the caller may be cancelled, but a start must not stop half-way.
            self._nursery.start_soon(self._run, entry, network)
        await entry.started.wait()
        failure = entry.failure
        if isinstance(failure, RpcError):
            raise RpcError(failure.code, failure.message)
        if failure is not None:
            detail = process_pb2.StartFailure(
                kind=process_pb2.StartFailure.Kind.Name(failure.kind),
                errno=failure.errno,
                subject=failure.subject,
                step=failure.step,
                searched_path=failure.searched_path,
            )
            raise RpcError(Code.FAILED_PRECONDITION, str(failure), detail)
        return entry

    def delete(self, process_id: str) -> None:
        """Forget a process that has ended, or was never started. FAILED_PRECONDITION when it runs."""
        entry = self.find(process_id)
        if entry.phase in (Phase.STARTING, Phase.RUNNING):
            raise RpcError(Code.FAILED_PRECONDITION, f"process {process_id} is running")
        del self._entries[process_id]
        if entry.stdin is not None:
            entry.stdin.close()
        if entry.stdin_read >= 0:
            os.close(entry.stdin_read)
        if not entry.join and entry.cgroup is not None:
            try:
                entry.cgroup.remove()
            except OSError:
                pass  # A process of the group is still dying. The group goes when the VM is powered off.

    async def end_all(self, grace: float) -> None:
        """Send SIGTERM to the first process of each container, and SIGKILL to all processes after `grace` seconds."""
        first = [entry for entry in self._entries.values() if entry.phase is Phase.RUNNING and not entry.join]
        if grace:
            for entry in first:
                send_signal(entry, signal.SIGTERM)
        with trio.move_on_after(grace):
            for entry in first:
                await entry.ended.wait()
        for entry in first:
            if entry.phase is Phase.RUNNING and entry.cgroup is not None:
                entry.cgroup.kill()
        with trio.move_on_after(2):
            for entry in first:
                await entry.ended.wait()

    # -- the life of a process ------------------------------------------------------------------------------------

    async def _run(self, entry: Entry, network: int) -> None:
        try:
            with closing(self._namespaces(entry, network)) as namespaces:
                launched, pipes = await self._launch(entry, namespaces)
        except (LaunchFailure, RpcError, OSError) as error:
            entry.failure = (
                LaunchFailure(Kind.OTHER, str(error), "", error.errno or 0) if isinstance(error, OSError) else error
            )
            entry.phase = Phase.FAILED
            entry.spool.close()
            entry.started.set()
            entry.ended.set()
            return
        entry.pid = launched.pid
        entry.started_ns = time.time_ns()
        entry.phase = Phase.RUNNING
        statuses: list[int] = []

        def on_exit(status: int) -> None:
            statuses.append(status)
            entry.reaped.set()

        self._reaper.watch(entry.pid, on_exit)
        entry.started.set()
        async with trio.open_nursery() as watchers:
            async with trio.open_nursery() as nursery:
                entry.output = nursery.cancel_scope
                if launched.terminal >= 0:
                    entry.terminal = launched.terminal
                    os.set_blocking(launched.terminal, False)
                    if entry.has_stdin:
                        entry.stdin = Stdin(launched.terminal, terminal=True)
                    nursery.start_soon(partial(pump_out, launched.terminal, STDOUT, entry.spool, terminal=True))
                else:
                    for fd, stream in zip(pipes, (STDOUT, STDERR), strict=True):
                        nursery.start_soon(pump_out, fd, stream, entry.spool)
                await entry.reaped.wait()
                if not entry.join and entry.cgroup is not None:
                    # The kernel kills the other processes of the pid namespace; this kills those of the cgroup, the execs too.
                    entry.cgroup.kill()
                    watchers.start_soon(_end_output, entry.spool, entry.cgroup)
            watchers.cancel_scope.cancel()
        if entry.stdin is not None:
            entry.stdin.close()
        entry.terminal = -1
        entry.exit = self._exit_status(entry, statuses[0])
        entry.spool.close(entry.exit)
        entry.phase = Phase.EXITED
        entry.ended.set()

    def _namespaces(self, entry: Entry, network: int) -> Namespaces:
        """Open the namespaces that a first process enters. RpcError when a process that shares its own does not run."""
        opened = {"network": os.dup(network)} if network >= 0 and "network" not in entry.shares else {}
        try:
            for kind, owner in entry.shares.items():
                try:
                    # No await lies between the look-up and this, so the pid is still that of the process.
                    opened[kind] = open_namespace(self.find_running(owner).pid, kind)
                except (RpcError, OSError) as error:
                    text = f"the {kind} namespace of {owner} cannot be joined: its process is not running"
                    raise RpcError(Code.FAILED_PRECONDITION, text) from error
        except RpcError:
            Namespaces(**opened).close()
            raise
        return Namespaces(**opened)

    async def _launch(self, entry: Entry, namespaces: Namespaces) -> tuple[Launched, tuple[int, ...]]:
        owner = self.find(entry.join) if entry.join else entry
        if entry.join and (owner.phase is not Phase.RUNNING or owner.reaped.is_set()):
            raise LaunchFailure(Kind.OTHER, "join", entry.join, errno.ESRCH)
        prepared = None
        if owner.cgroup is None and self._prepared is not None and Prepared.suits(entry.spec, namespaces):
            (prepared, owner.cgroup), self._prepared = self._prepared, None
        cgroup = owner.cgroup
        if cgroup is None:
            cgroup = owner.cgroup = self._new_cgroup()
        if owner is entry:
            cgroup.create()
            cgroup.write(cgroup_files(entry.spec.linux.resources))
        entry.cgroup = cgroup
        entry.oom_before = cgroup.oom_kills()
        given: list[int] = []
        kept: list[int] = []
        group = cgroup.open()
        try:
            stdio = ChildStdio()
            if not entry.spec.process.terminal:
                if entry.stdin_read < 0:
                    entry.stdin_read = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
                for _ in range(2):
                    reading, writing = os.pipe2(os.O_CLOEXEC)
                    os.set_blocking(reading, False)
                    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE)
                    kept.append(reading)
                    given.append(writing)
                stdio = ChildStdio(entry.stdin_read, given[0], given[1])
            launched = await launch(
                entry.spec,
                stdio,
                group,
                join=owner.pid if entry.join else 0,
                rows=entry.size[0],
                columns=entry.size[1],
                prepared=prepared,
                namespaces=namespaces,
            )
        except BaseException:
            for fd in kept:
                os.close(fd)
            raise
        finally:
            for fd in (*given, group):
                os.close(fd)
            if entry.stdin_read >= 0:
                os.close(entry.stdin_read)
                entry.stdin_read = -1
        return launched, tuple(kept)

    @staticmethod
    def _exit_status(entry: Entry, status: int) -> process_pb2.ExitStatus:
        signalled = os.WIFSIGNALED(status)
        assert entry.cgroup is not None
        return process_pb2.ExitStatus(
            code=0 if signalled else os.WEXITSTATUS(status),
            signal=os.WTERMSIG(status) if signalled else 0,
            core_dumped=signalled and os.WCOREDUMP(status),
            oom_killed=entry.cgroup.oom_kills() > entry.oom_before,
            exited_ns=time.time_ns(),
            final_offset=entry.spool.written,
        )


async def _end_output(spool: Spool, cgroup: Cgroup) -> None:
    """Wait no longer for the end of a container's output when its processes are gone: a neighbour may hold /proc/PID/fd/1.

    moby waits as long (daemon/monitor.go, handleContainerExit).
    """
    while True:
        await trio.sleep(_OUTPUT_SECONDS)
        if not cgroup.is_populated():
            break
    spool.end_input()


def _shares(request: process_pb2.CreateRequest) -> dict[str, str]:
    asked = {"network": request.network_of, "pid": request.pid_of, "ipc": request.ipc_of}
    return {kind: owner for kind, owner in asked.items() if owner}


def send_signal(entry: Entry, number: int, *, everyone: bool = False) -> None:
    """Signal a process, or all processes of its container. A process that has ended meanwhile is ignored."""
    if everyone and number == signal.SIGKILL and entry.cgroup is not None:
        entry.cgroup.kill()
        return
    own = [] if entry.reaped.is_set() else [entry.pid]
    targets = entry.cgroup.all_pids() if everyone and entry.cgroup is not None else own
    for pid in targets:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
