"""A scripted guest: the tether's own RPC server and stdio on a memory line, with processes that are Python coroutines.

The state of a VM outlives its lines, as in a real guest: a restarted engine dials again and finds the processes.
"""

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio
from google.protobuf.message import Message

from appliance.hypervisor import MachineSpec
from protos.tether.v1 import filesystem_pb2, metrics_pb2, network_pb2, process_pb2, sandbox_pb2, stdio_pb2, tunnel_pb2
from tests.appliance.engine.guest_files import FileService, GuestDisk
from tests.appliance.engine.guest_network import GuestNetwork
from tether.agent.stdio import STDOUT, Spool, Stdin, StdioService
from tether.agent.tunnel import TunnelService
from tether.launch import oci
from tether.rpc.call import Call, Method, methods_of
from tether.rpc.listener import serve_link
from tether.rpc.status import Code, RpcError
from tether.transport import Line, LineClosed


class Process:
    """A process of the guest, as its program sees it."""

    def __init__(self, request: process_pb2.CreateRequest, pid: int) -> None:
        self.id = request.id
        self.join = request.join
        self.network_of, self.pid_of, self.ipc_of = request.network_of, request.pid_of, request.ipc_of
        self.pid = pid
        self.spec = oci.decode_untrusted(oci.Spec, request.spec)
        self.started_ns = time.time_ns()
        self.spool = Spool(1 << 20, False)
        self.paused = False
        self.signals: list[int] = []
        self._signalled = trio.Event()
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self._reading = reading
        self.stdin = Stdin(writing)

    @property
    def args(self) -> list[str]:
        assert self.spec.process is not None
        return list(self.spec.process.args)

    @property
    def env(self) -> list[str]:
        assert self.spec.process is not None
        return list(self.spec.process.env)

    def write(self, text: str) -> None:
        """Write to stdout."""
        self.spool.put(STDOUT, text.encode())

    async def read(self) -> bytes:
        """Read from stdin; b"" at its end."""
        while True:
            try:
                return os.read(self._reading, 1 << 16)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._reading)

    async def wait_signal(self) -> int:
        """Return the next signal. A paused process gets it when it is resumed."""
        while self.paused or not self.signals:
            await self._signalled.wait()
            self._signalled = trio.Event()
        return self.signals.pop(0)

    def resume(self) -> None:
        self.paused = False
        self._signalled.set()

    def signal(self, number: int) -> None:
        self.signals.append(number)
        self._signalled.set()

    def close(self) -> None:
        """Close both ends of stdin, as the kernel does when a process is gone."""
        trio.lowlevel.notify_closing(self._reading)
        os.close(self._reading)
        self.stdin.close()

    def end(self, status: process_pb2.ExitStatus) -> None:
        status.final_offset = self.spool.written
        self.spool.close(status)


Program = Callable[[Process], Awaitable[int]]
"""Runs as a process and returns its exit code. SIGKILL cancels it."""


async def echo(process: Process) -> int:
    """Print the arguments and end."""
    process.write(" ".join(process.args[1:]) + "\n")
    return 0


async def sleeper(process: Process) -> int:
    """Sleep until SIGTERM, as a well-behaved server."""
    while await process.wait_signal() != 15:
        pass
    return 0


@dataclass(slots=True)
class Vm:
    """The state of one guest between its lines. A `silent` guest answers no Hello."""

    configured: sandbox_pb2.ConfigureRequest | None = None
    added: dict[str, sandbox_pb2.AddRequest] = field(default_factory=dict)
    removed: list[sandbox_pb2.RemoveRequest] = field(default_factory=list)
    awakened: list[sandbox_pb2.AwakenRequest] = field(default_factory=list)
    network: GuestNetwork = field(default_factory=GuestNetwork)
    processes: dict[str, Process] = field(default_factory=dict)
    scopes: dict[str, trio.CancelScope] = field(default_factory=dict)
    off: trio.Event = field(default_factory=trio.Event)
    tunnel: TunnelService | None = None
    silent: bool = False

    def file(self, name: str) -> str:
        """The newest content of a file in the tether's state directory, such as hosts."""
        files = [*self.configured.files] if self.configured is not None else []
        for request in self.awakened:
            files += request.files
        return [file.content for file in files if file.name == name][-1].decode()


class ScriptedGuest:
    """`programs` by the first argument of a process; `default` runs everything else. `nursery` owns the processes.

    `refusals` maps a first argument to the StartFailure that a launch of it ends with. `hold` delays each launch until it is set;
    `held` is set when a launch waits for it. Without `adds` it is a guest of version 0.1, with one container. Ids of containers in `busy`
    cannot be removed, because others use their disks. All VMs have the same `disk`. `requests` receives what is asked of files, metrics,
    top, limits and terminals.
    """

    def __init__(self, nursery: trio.Nursery, default: Program = sleeper, **programs: Program) -> None:
        self._nursery = nursery
        self._default = default
        self.programs = programs
        self.refusals: dict[str, process_pb2.StartFailure] = {}
        self.hold: trio.Event | None = None
        self.held = trio.Event()
        self.vms: dict[str, Vm] = {}
        self.launched: list[str] = []
        self.disk = GuestDisk()
        self.requests: list[Message] = []
        # Methods that fail, in snake_case.
        self.broken: set[str] = set()
        self.adds = True
        self.busy: set[str] = set()
        # A VM's sockets are in SOCKETS/MACHINE. Without it, guests have no Tunnel, as those of 0.1.
        self.sockets: Path | None = None

    async def __call__(self, spec: MachineSpec, line: Line) -> None:
        """Serve one line. Returns when the guest powers off."""
        vm = self.vms.get(spec.id)
        # An earlier machine with this id may be off, but not served to its end.
        if vm is None or vm.off.is_set():
            vm = self.vms[spec.id] = Vm()
        service = _Services(self, vm)
        files = FileService(self.disk, self.requests)
        methods: dict[bytes, Method] = {}
        for file, name, implementation in (
            (sandbox_pb2.DESCRIPTOR, "Sandbox", service),
            (process_pb2.DESCRIPTOR, "Process", service),
            (metrics_pb2.DESCRIPTOR, "Metrics", service.metrics),
            (filesystem_pb2.DESCRIPTOR, "Filesystem", files),
            (stdio_pb2.DESCRIPTOR, "Stdio", service.stdio),
            (stdio_pb2.DESCRIPTOR, "Log", service.stdio),
            (network_pb2.DESCRIPTOR, "Network", vm.network),
        ):
            methods |= methods_of(file.services_by_name[name], implementation)
        if self.sockets is not None:
            if vm.tunnel is None:
                vm.tunnel = TunnelService(lambda _: os.getpid(), str(self.sockets / spec.id[:12]))
            methods |= methods_of(tunnel_pb2.DESCRIPTOR.services_by_name["Tunnel"], vm.tunnel)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_link, line, methods, _random_id)
                await vm.off.wait()
                nursery.cancel_scope.cancel()
        except* LineClosed:
            await vm.off.wait()
        _end(vm)
        if self.vms.get(spec.id) is vm:
            del self.vms[spec.id]

    def power_off(self, machine_id: str) -> None:
        """End all processes of a VM, as the loss of power does."""
        if machine_id in self.vms:
            _end(self.vms.pop(machine_id))

    def vm_of(self, process_id: str) -> Vm:
        """The VM in which a container's process runs."""
        return next(vm for vm in self.vms.values() if process_id in vm.processes)

    def process(self, process_id: str) -> Process:
        """The process of a container, in whatever VM."""
        return next(vm.processes[process_id] for vm in self.vms.values() if process_id in vm.processes)

    def start(self, vm: Vm, process: Process) -> None:
        vm.processes[process.id] = process
        scope = vm.scopes[process.id] = trio.CancelScope()
        self._nursery.start_soon(self._run, vm, process, scope)

    async def _run(self, vm: Vm, process: Process, scope: trio.CancelScope) -> None:
        program = self.programs.get(process.args[0], self._default)
        code = 0
        try:
            with scope:
                code = await program(process)
        finally:
            process.close()
        killed = scope.cancelled_caught
        process.end(process_pb2.ExitStatus(signal=9) if killed else process_pb2.ExitStatus(code=code))
        # The kernel kills the rest of a pid namespace with its first process.
        for other in vm.processes.values():
            if process.id in (other.join, other.pid_of):
                vm.scopes[other.id].cancel()


def _end(vm: Vm) -> None:
    """End all processes of a VM."""
    for scope in vm.scopes.values():
        scope.cancel()
    if vm.tunnel is not None:
        vm.tunnel.close()


def _random_id() -> int:
    return int.from_bytes(os.urandom(8), "big") or 1


class _Metrics:
    """Metrics of one VM: of the processes that are there, each has used a second of CPU time."""

    def __init__(self, vm: Vm, requests: list[Message]) -> None:
        self._vm = vm
        self._requests = requests

    def get(self, request: metrics_pb2.GetMetricsRequest) -> metrics_pb2.Sample:
        self._requests.append(request)
        if request.id not in self._vm.processes:
            raise RpcError(Code.NOT_FOUND, f"no process {request.id}")
        count = len(self._vm.processes)
        return metrics_pb2.Sample(cpu_usage_ns=count * 1_000_000_000, pids=count, memory_usage=1 << 20)


class _Services:
    """Sandbox and Process of one VM."""

    def __init__(self, guest: ScriptedGuest, vm: Vm) -> None:
        self._guest = guest
        self._vm = vm
        self.metrics = _Metrics(vm, guest.requests)
        self.stdio = StdioService(lambda process_id: (self._find(process_id).stdin, self._find(process_id).spool))

    def _find(self, process_id: str) -> Process:
        if process_id not in self._vm.processes:
            raise RpcError(Code.NOT_FOUND, f"no process {process_id}")
        return self._vm.processes[process_id]

    def _check(self, method: str) -> None:
        if method in self._guest.broken:
            raise RpcError(Code.INTERNAL, "the guest is broken")

    # -- Sandbox --------------------------------------------------------------------------------------------------

    async def hello(self, _: sandbox_pb2.HelloRequest) -> sandbox_pb2.HelloResponse:
        if self._vm.silent:
            await trio.sleep_forever()
        return sandbox_pb2.HelloResponse(protocol=1, version="scripted", adds=self._guest.adds)

    def configure(self, request: sandbox_pb2.ConfigureRequest) -> sandbox_pb2.ConfigureResponse:
        self._vm.configured = request
        return sandbox_pb2.ConfigureResponse()

    async def launch(self, request: sandbox_pb2.LaunchRequest, call: Call) -> None:
        self._check("launch")
        process_id = request.process.id
        if process_id not in self._vm.processes:
            process = Process(request.process, 100 + len(self._guest.launched))
            try:
                failure = self._guest.refusals.get(process.args[0])
                if failure is not None:
                    raise RpcError(Code.FAILED_PRECONDITION, "refused", failure)
                if self._guest.hold is not None:
                    self._guest.held.set()
                    await self._guest.hold.wait()
            except BaseException:
                process.close()
                raise
            if request.HasField("configure"):
                self._vm.configured = request.configure
            if request.HasField("add"):
                self.add(request.add)
            for other in filter(None, (process.network_of, process.pid_of, process.ipc_of)):
                if other not in self._vm.processes or self._vm.processes[other].spool.closed:
                    process.close()
                    raise RpcError(Code.FAILED_PRECONDITION, f"process {other} does not run")
            self._guest.launched.append(process_id)
            self._guest.start(self._vm, process)
        process = self._find(process_id)
        started = process_pb2.StartResponse(pid=process.pid, started_ns=process.started_ns)
        await call.send(sandbox_pb2.LaunchResponse(started=started))
        async for records in self.stdio.follow(process_id, 0):
            await call.send(sandbox_pb2.LaunchResponse(output=records))

    def add(self, request: sandbox_pb2.AddRequest) -> sandbox_pb2.AddResponse:
        if self._vm.configured is None:
            raise RpcError(Code.FAILED_PRECONDITION, "the VM is blank")
        self._vm.added[request.id] = request
        return sandbox_pb2.AddResponse()

    async def remove(self, request: sandbox_pb2.RemoveRequest) -> sandbox_pb2.RemoveResponse:
        self._check("remove")
        if request.id in self._guest.busy:
            raise RpcError(Code.ABORTED, "a disk is in use")
        for process in [*self._vm.processes.values()]:
            if request.id in (process.id, process.join):
                self._vm.scopes[process.id].cancel()
                while not process.spool.closed:
                    await process.spool.wait_news()
                del self._vm.processes[process.id]
        self._vm.added.pop(request.id, None)
        self._vm.removed.append(request)
        return sandbox_pb2.RemoveResponse()

    def reset(self, _: sandbox_pb2.ResetRequest) -> sandbox_pb2.ResetResponse:
        self._vm.configured = None
        return sandbox_pb2.ResetResponse()

    def awaken(self, request: sandbox_pb2.AwakenRequest) -> sandbox_pb2.AwakenResponse:
        self._vm.awakened.append(request)
        return sandbox_pb2.AwakenResponse()

    def shutdown(self, _: sandbox_pb2.ShutdownRequest) -> sandbox_pb2.ShutdownResponse:
        self._vm.off.set()
        return sandbox_pb2.ShutdownResponse()

    # -- Process --------------------------------------------------------------------------------------------------

    def signal(self, request: process_pb2.SignalRequest) -> process_pb2.SignalResponse:
        self._check("signal")
        process = self._find(request.id)
        if process.spool.closed:
            raise RpcError(Code.FAILED_PRECONDITION, f"process {request.id} has ended")
        if request.signal == 9:
            self._vm.scopes[request.id].cancel()
        else:
            process.signal(request.signal)
        return process_pb2.SignalResponse()

    async def wait(self, request: process_pb2.WaitRequest) -> process_pb2.WaitResponse:
        spool = self._find(request.id).spool
        while not spool.closed:
            await spool.wait_news()
        return process_pb2.WaitResponse(status=spool.exit)

    def delete(self, request: process_pb2.DeleteRequest) -> process_pb2.DeleteResponse:
        self._vm.processes.pop(request.id, None)
        return process_pb2.DeleteResponse()

    def list(self, _: process_pb2.ListRequest) -> process_pb2.ListResponse:
        return process_pb2.ListResponse(processes=[self._state(process) for process in self._vm.processes.values()])

    @staticmethod
    def _state(process: Process) -> process_pb2.ProcessState:
        phases = process_pb2.ProcessState
        phase = phases.EXITED if process.spool.closed else phases.PAUSED if process.paused else phases.RUNNING
        return process_pb2.ProcessState(
            id=process.id,
            phase=phase,
            pid=process.pid,
            started_ns=process.started_ns,
            exit=process.spool.exit,
            acknowledged_offset=process.spool.acknowledged,
            written_offset=process.spool.written,
            join=process.join,
        )

    def pause(self, request: process_pb2.PauseRequest) -> process_pb2.PauseResponse:
        self._find(request.id).paused = True
        return process_pb2.PauseResponse()

    def resume(self, request: process_pb2.ResumeRequest) -> process_pb2.ResumeResponse:
        self._check("resume")
        self._find(request.id).resume()
        return process_pb2.ResumeResponse()

    def resize_pty(self, request: process_pb2.ResizePtyRequest) -> process_pb2.ResizePtyResponse:
        self._guest.requests.append(request)
        return process_pb2.ResizePtyResponse()

    def update(self, request: process_pb2.UpdateRequest) -> process_pb2.UpdateResponse:
        self._guest.requests.append(request)
        return process_pb2.UpdateResponse()

    def top(self, request: process_pb2.TopRequest) -> process_pb2.TopResponse:
        """As ps with the columns PID and CMD; the VM has a further process that is not the container's."""
        self._guest.requests.append(request)
        self._find(request.id)
        if "--nonsense" in request.arguments:
            raise RpcError(Code.INVALID_ARGUMENT, "error: unknown gnu long option\n\nUsage:\n ps [options]")
        found = self._vm.processes.values()
        lines = ["PID CMD", "1 tether", *(f"{process.pid} {' '.join(process.args)}" for process in found)]
        return process_pb2.TopResponse(output="\n".join(lines).encode(), pids=[process.pid for process in found])
