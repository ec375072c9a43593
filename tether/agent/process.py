"""Processes as the appliance sees them: Process of protos/tether/v1/process.proto."""

import os
from collections.abc import Sequence

import trio

from protos.tether.v1 import process_pb2
from tether.agent.child import child
from tether.agent.process_table import Entry, Phase, ProcessTable, send_signal
from tether.agent.reaper import Reaper
from tether.launch import oci
from tether.launch.limits import cgroup_files
from tether.rpc.status import Code, RpcError
from tether.system import linux

_FREEZE_SECONDS = 10.0
_MOST_PS = 3 << 20


class ProcessService:
    def __init__(self, table: ProcessTable, reaper: Reaper) -> None:
        self._table = table
        self._reaper = reaper

    def signal(self, request: process_pb2.SignalRequest) -> process_pb2.SignalResponse:
        entry = self._table.find_running(request.id)
        if not 1 <= request.signal <= 64:
            raise RpcError(Code.INVALID_ARGUMENT, f"no such signal: {request.signal}")
        send_signal(entry, request.signal, everyone=request.all)
        return process_pb2.SignalResponse()

    async def wait(self, request: process_pb2.WaitRequest) -> process_pb2.WaitResponse:
        entry = self._table.find(request.id)
        await entry.ended.wait()
        if entry.exit is None:
            raise RpcError(Code.FAILED_PRECONDITION, f"process {request.id} was never started")
        return process_pb2.WaitResponse(status=entry.exit)

    def delete(self, request: process_pb2.DeleteRequest) -> process_pb2.DeleteResponse:
        self._table.delete(request.id)
        return process_pb2.DeleteResponse()

    def list(self, request: process_pb2.ListRequest) -> process_pb2.ListResponse:
        return process_pb2.ListResponse(processes=[_state(entry) for entry in self._table.entries()])

    async def top(self, request: process_pb2.TopRequest) -> process_pb2.TopResponse:
        cgroup = self._table.cgroup_of(request.id)
        pids = cgroup.all_pids()
        arguments = request.arguments[:64]
        # As moby does: select the container's processes, and try again without a selection, which some options exclude.
        output, status = await self._ps([*arguments, f"-q{','.join(map(str, pids))}"])
        if status:
            output, status = await self._ps(arguments)
        if status:
            raise RpcError(Code.INVALID_ARGUMENT, output.decode("utf-8", "replace").strip()[:2000])
        return process_pb2.TopResponse(output=output, pids=pids)

    async def _ps(self, arguments: Sequence[str]) -> tuple[bytes, int]:
        """Return (output and error texts, exit status)."""

        def work(_: int, out: int) -> None:
            os.dup2(out, 2)
            os.execve("/bin/ps", ["ps", *arguments], {"PATH": "/bin", "LANG": "C.UTF-8"})

        output = b""
        async with child(self._reaper, work) as ps:
            while len(output) < _MOST_PS and (data := await ps.output.read()):
                output += data
            return output, await ps.wait()

    def resize_pty(self, request: process_pb2.ResizePtyRequest) -> process_pb2.ResizePtyResponse:
        entry = self._table.find(request.id)
        if not entry.spec.process.terminal:
            raise RpcError(Code.FAILED_PRECONDITION, f"process {request.id} has no terminal")
        size = (min(request.rows, 65535), min(request.columns, 65535))
        entry.size = size
        if entry.terminal >= 0:
            linux.set_terminal_size(entry.terminal, *size)
        return process_pb2.ResizePtyResponse()

    def update(self, request: process_pb2.UpdateRequest) -> process_pb2.UpdateResponse:
        entry = self._table.find_running(request.id)
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
        """Return when the kernel reports the new state. It stops each process only when that process would next run."""
        cgroup = self._table.cgroup_of(process_id)
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
