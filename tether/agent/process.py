"""The table of processes: Process of protos/tether/v1/process.proto."""

import enum
import fcntl
import hashlib
import itertools
import json
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from protos.tether.v1 import events_pb2, process_pb2
from tether.agent.child import child
from tether.agent.events import EventsService
from tether.agent.reaper import Reaper
from tether.agent.stdio import STDERR, STDOUT, Spool, Stdin, pump_out
from tether.launch import oci
from tether.launch.failure import LaunchFailure
from tether.launch.launcher import Launched, Prepared, launch
from tether.launch.launcher import Stdio as ChildStdio
from tether.launch.limits import cgroup_files
from tether.launch.spec import Spec, parse_spec_untrusted
from tether.rpc.status import Code, RpcError
from tether.system import linux
from tether.system.cgroup import Cgroup

_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_DEFAULT_SPOOL = 1 << 20
_FREEZE_SECONDS = 10.0
_MOST_PS = 3 << 20


class Phase(enum.IntEnum):
    CREATED = process_pb2.ProcessState.CREATED
    STARTING = 100
    RUNNING = process_pb2.ProcessState.RUNNING
    EXITED = process_pb2.ProcessState.EXITED
    FAILED = 101


@dataclass(slots=True)
class Entry:
    """One process. `ended` is set when it has exited and its output has its last offset."""

    id: str
    digest: bytes
    spec: Spec
    join: str
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
    failure: LaunchFailure | None = None
    started: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    cgroup: Cgroup | None = None
    oom_before: int = 0


class ProcessService:
    def __init__(self, nursery: trio.Nursery, reaper: Reaper, events: EventsService) -> None:
        self._nursery = nursery
        self._reaper = reaper
        self._events = events
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

    def _find(self, process_id: str) -> Entry:
        entry = self._entries.get(process_id)
        if entry is None:
            raise RpcError(Code.NOT_FOUND, f"no such process: {process_id[:128]}")
        return entry

    def _running(self, process_id: str) -> Entry:
        entry = self._find(process_id)
        if entry.phase is not Phase.RUNNING:
            raise RpcError(Code.FAILED_PRECONDITION, f"process {process_id} is not running")
        return entry

    def stdio_of(self, process_id: str) -> tuple[Stdin | None, Spool]:
        entry = self._find(process_id)
        return entry.stdin, entry.spool

    def spec_of(self, process_id: str) -> Spec:
        return self._find(process_id).spec

    def pid_of(self, process_id: str) -> int:
        return self._running(process_id).pid

    def cgroup_of(self, process_id: str) -> Cgroup:
        cgroup = self._running(process_id).cgroup
        assert cgroup is not None
        return cgroup

    @property
    def empty(self) -> bool:
        """No process is known, running or not."""
        return not self._entries

    # -- the service ----------------------------------------------------------------------------------------------

    def create(self, request: process_pb2.CreateRequest) -> process_pb2.CreateResponse:
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        known = self._entries.get(request.id)
        if known is not None:
            if known.digest != digest:
                raise RpcError(Code.ALREADY_EXISTS, f"process {request.id} exists with another spec")
            return process_pb2.CreateResponse()
        if not _ID.fullmatch(request.id):
            raise RpcError(Code.INVALID_ARGUMENT, "a process id is 1 to 128 of [A-Za-z0-9_.-]")
        try:
            spec = parse_spec_untrusted(request.spec)
        except oci.SpecError as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from error
        if request.join:
            self._find(request.join)
        limit = min(max(request.spool_bytes or _DEFAULT_SPOOL, 4 << 10), 64 << 20)
        entry = Entry(
            request.id,
            digest,
            spec,
            request.join,
            Spool(limit, request.drop_oldest),
            request.stdin,
            (min(request.rows, 65535), min(request.columns, 65535)),
        )
        if request.stdin and not spec.process.terminal:
            entry.stdin_read, writing = os.pipe2(os.O_CLOEXEC)
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 256 << 10)
            entry.stdin = Stdin(writing)
        self._entries[request.id] = entry
        return process_pb2.CreateResponse()

    async def start(self, request: process_pb2.StartRequest) -> process_pb2.StartResponse:
        entry = self._find(request.id)
        if entry.phase is Phase.CREATED:
            entry.phase = Phase.STARTING
            # Not this call's task: the call may be cancelled, the start may not be half done.
            self._nursery.start_soon(self._start, entry)
        await entry.started.wait()
        if entry.failure is not None:
            failure = entry.failure
            detail = process_pb2.StartFailure(
                kind=process_pb2.StartFailure.Kind.Name(failure.kind),
                errno=failure.errno,
                subject=failure.subject,
                step=failure.step,
                searched_path=failure.searched_path,
            )
            raise RpcError(Code.FAILED_PRECONDITION, str(failure), detail)
        return process_pb2.StartResponse(pid=entry.pid, started_ns=entry.started_ns)

    async def _start(self, entry: Entry) -> None:
        try:
            launched, pipes = await self._launch(entry)
        except (LaunchFailure, OSError) as error:
            entry.failure = (
                error
                if isinstance(error, LaunchFailure)
                else LaunchFailure.decode(json.dumps([0, str(error), "", error.errno or 0, False]).encode())
            )
            entry.phase = Phase.FAILED
            entry.spool.close()
            entry.started.set()
            entry.ended.set()
            return
        entry.pid = launched.pid
        entry.started_ns = time.time_ns()
        entry.phase = Phase.RUNNING
        self._events.publish(started=events_pb2.Started(id=entry.id, pid=entry.pid))
        exited = trio.Event()
        statuses: list[int] = []

        def on_exit(status: int) -> None:
            statuses.append(status)
            exited.set()

        self._reaper.watch(entry.pid, on_exit)
        entry.started.set()
        async with trio.open_nursery() as nursery:
            if launched.terminal >= 0:
                entry.terminal = launched.terminal
                os.set_blocking(launched.terminal, False)
                if entry.has_stdin:
                    entry.stdin = Stdin(launched.terminal, terminal=True)
                nursery.start_soon(partial(pump_out, launched.terminal, STDOUT, entry.spool, terminal=True))
            else:
                for fd, stream in zip(pipes, (STDOUT, STDERR), strict=True):
                    nursery.start_soon(pump_out, fd, stream, entry.spool)
            await exited.wait()
            if not entry.join and entry.cgroup is not None:
                # The first process is gone: the kernel ends the rest of its pid namespace, this the rest of the cgroup.
                entry.cgroup.kill()
        if entry.stdin is not None:
            entry.stdin.close()
        entry.terminal = -1
        entry.exit = self._exit_status(entry, statuses[0])
        entry.spool.close(entry.exit)
        entry.phase = Phase.EXITED
        entry.ended.set()
        self._events.publish(exited=events_pb2.Exited(id=entry.id, status=entry.exit))

    async def _launch(self, entry: Entry) -> tuple[Launched, tuple[int, ...]]:
        owner = self._find(entry.join) if entry.join else entry
        if entry.join and owner.phase is not Phase.RUNNING:
            raise LaunchFailure.decode(json.dumps([0, "join", entry.join, 3, False]).encode())
        prepared = None
        if owner.cgroup is None and self._prepared is not None and Prepared.suits(entry.spec):
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
                    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 256 << 10)
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

    def signal(self, request: process_pb2.SignalRequest) -> process_pb2.SignalResponse:
        entry = self._running(request.id)
        if not 1 <= request.signal <= 64:
            raise RpcError(Code.INVALID_ARGUMENT, f"no such signal: {request.signal}")
        if request.all and request.signal == signal.SIGKILL and entry.cgroup is not None:
            entry.cgroup.kill()
            return process_pb2.SignalResponse()
        targets = entry.cgroup.pids() if request.all and entry.cgroup is not None else [entry.pid]
        for pid in targets:
            try:
                os.kill(pid, request.signal)
            except ProcessLookupError:
                pass
        return process_pb2.SignalResponse()

    async def wait(self, request: process_pb2.WaitRequest) -> process_pb2.WaitResponse:
        entry = self._find(request.id)
        await entry.ended.wait()
        if entry.exit is None:
            raise RpcError(Code.FAILED_PRECONDITION, f"process {request.id} was never started")
        return process_pb2.WaitResponse(status=entry.exit)

    def delete(self, request: process_pb2.DeleteRequest) -> process_pb2.DeleteResponse:
        entry = self._find(request.id)
        if entry.phase in (Phase.STARTING, Phase.RUNNING):
            raise RpcError(Code.FAILED_PRECONDITION, f"process {request.id} is running")
        del self._entries[request.id]
        if entry.stdin is not None:
            entry.stdin.close()
        if entry.stdin_read >= 0:
            os.close(entry.stdin_read)
        if not entry.join and entry.cgroup is not None:
            try:
                entry.cgroup.remove()
            except OSError:
                pass  # a process of it is still dying; the group is removed with the machine
        return process_pb2.DeleteResponse()

    def list(self, request: process_pb2.ListRequest) -> process_pb2.ListResponse:
        return process_pb2.ListResponse(processes=[self._state(entry) for entry in self._entries.values()])

    @staticmethod
    def _state(entry: Entry) -> process_pb2.ProcessState:
        phase = entry.phase
        if phase is Phase.RUNNING and entry.cgroup is not None and entry.cgroup.is_frozen():
            shown = process_pb2.ProcessState.PAUSED
        elif phase is Phase.RUNNING:
            shown = process_pb2.ProcessState.RUNNING
        elif phase in (Phase.EXITED, Phase.FAILED):
            shown = process_pb2.ProcessState.EXITED
        else:
            shown = process_pb2.ProcessState.CREATED
        return process_pb2.ProcessState(
            id=entry.id,
            phase=shown,
            pid=entry.pid,
            started_ns=entry.started_ns,
            exit=entry.exit,
            join=entry.join,
            acknowledged_offset=entry.spool.acknowledged,
            written_offset=entry.spool.written,
            terminal=entry.spec.process.terminal,
        )

    async def top(self, request: process_pb2.TopRequest) -> process_pb2.TopResponse:
        cgroup = self.cgroup_of(request.id)
        pids = cgroup.all_pids()
        arguments = request.arguments[:64]
        # As moby does: without a selection of its own ps shows these; some options do not go with one, so it is tried again.
        output, status = await self._ps([*arguments, f"-q{','.join(map(str, pids))}"])
        if status:
            output, status = await self._ps(arguments)
        if status:
            raise RpcError(Code.INVALID_ARGUMENT, output.decode("utf-8", "replace").strip()[:2000])
        return process_pb2.TopResponse(output=output, pids=pids)

    async def _ps(self, arguments: Sequence[str]) -> tuple[bytes, int]:
        """(all it says, its exit status)."""

        def work(_: int, out: int) -> None:
            # What it complains of comes behind what it prints, with its status in between.
            os.dup2(out, 2)
            os.execve("/bin/ps", ["ps", *arguments], {"PATH": "/bin", "LANG": "C.UTF-8"})

        output = b""
        async with child(self._reaper, work) as ps:
            while len(output) < _MOST_PS and (data := await ps.output.read()):
                output += data
            return output, await ps.wait()

    def resize_pty(self, request: process_pb2.ResizePtyRequest) -> process_pb2.ResizePtyResponse:
        entry = self._find(request.id)
        if not entry.spec.process.terminal:
            raise RpcError(Code.FAILED_PRECONDITION, f"process {request.id} has no terminal")
        size = (min(request.rows, 65535), min(request.columns, 65535))
        entry.size = size
        if entry.terminal >= 0:
            linux.set_terminal_size(entry.terminal, *size)
        return process_pb2.ResizePtyResponse()

    def update(self, request: process_pb2.UpdateRequest) -> process_pb2.UpdateResponse:
        entry = self._running(request.id)
        assert entry.cgroup is not None
        try:
            resources = oci.decode_untrusted(oci.Resources, request.resources)
            entry.cgroup.write(cgroup_files(resources))
        except oci.SpecError as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"malformed resources: {error}") from error
        except OSError as error:
            raise RpcError(Code.FAILED_PRECONDITION, str(error)) from error
        return process_pb2.UpdateResponse()

    async def pause(self, request: process_pb2.PauseRequest) -> process_pb2.PauseResponse:
        await self._freeze(request.id, True)
        return process_pb2.PauseResponse()

    async def resume(self, request: process_pb2.ResumeRequest) -> process_pb2.ResumeResponse:
        await self._freeze(request.id, False)
        return process_pb2.ResumeResponse()

    async def _freeze(self, process_id: str, frozen: bool) -> None:
        """Return when it is so: the kernel stops each process when that next could run."""
        cgroup = self._running(process_id).cgroup
        assert cgroup is not None
        cgroup.freeze(frozen)
        deadline = trio.current_time() + _FREEZE_SECONDS
        while True:
            if cgroup.is_frozen() == frozen:
                return
            if trio.current_time() >= deadline:
                break
            await trio.sleep(0.002)
        cgroup.freeze(False)
        raise RpcError(Code.DEADLINE_EXCEEDED, f"process {process_id} cannot be frozen")

    # -- for the machine ------------------------------------------------------------------------------------------

    async def end_all(self, grace: float) -> None:
        """SIGTERM to all, SIGKILL after `grace` seconds."""
        first = [entry for entry in self._entries.values() if entry.phase is Phase.RUNNING and not entry.join]
        if grace:
            for entry in first:
                self.signal(process_pb2.SignalRequest(id=entry.id, signal=signal.SIGTERM))
        with trio.move_on_after(grace):
            for entry in first:
                await entry.ended.wait()
        for entry in first:
            if entry.phase is Phase.RUNNING and entry.cgroup is not None:
                entry.cgroup.kill()
        with trio.move_on_after(2):
            for entry in first:
                await entry.ended.wait()
