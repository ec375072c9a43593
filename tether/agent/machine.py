"""The guest as a whole: Sandbox of protos/tether/v1/sandbox.proto."""

import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import trio

from protos.tether.v1 import process_pb2, sandbox_pb2
from tether import __version__
from tether.agent import modules, network
from tether.agent.containers import Containers, mount_points, write_files
from tether.agent.dhcp import Leases
from tether.agent.process_table import ProcessTable
from tether.agent.stdio import StdioService
from tether.launch.layout import ROOT
from tether.launch.spec import Spec
from tether.rpc.call import Call
from tether.rpc.status import Code, RpcError
from tether.system import linux
from tether.system.sock_diag import close_tcp

PROTOCOL = 1
# Seconds from the answer to a Shutdown to power-off. The appliance usually powers the VM off before.
_POWER_OFF_DELAY = 0.2


class SandboxService:
    def __init__(
        self,
        nursery: trio.Nursery,
        processes: ProcessTable,
        stdio: StdioService,
        leases: Leases,
        marks: list[tuple[str, int]],
        containers: Containers,
    ) -> None:
        self._nursery = nursery
        self._processes = processes
        self._stdio = stdio
        self._leases = leases
        self._marks = marks
        self._containers = containers
        self._boot_id = os.urandom(16)
        self._configured: sandbox_pb2.ConfigureRequest | None = None
        self._configuring = trio.Lock()
        self._was_reset = False

    def hello(self, request: sandbox_pb2.HelloRequest) -> sandbox_pb2.HelloResponse:
        memory = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M))
        return sandbox_pb2.HelloResponse(
            protocol=PROTOCOL,
            version=__version__,
            boot_id=self._boot_id,
            machine_id=self._configured.machine_id if self._configured else "",
            monotonic_ns=time.monotonic_ns(),
            boot=self._boot_marks(),
            kernel=os.uname().release,
            memory_total=int(memory.get("MemTotal", 0)) * 1024,
            memory_available=int(memory.get("MemAvailable", 0)) * 1024,
            adds=True,
        )

    def _boot_marks(self) -> list[sandbox_pb2.BootMark]:
        return [sandbox_pb2.BootMark(name=name, boottime_ns=at) for name, at in self._marks]

    async def launch(self, request: sandbox_pb2.LaunchRequest, call: Call) -> None:
        if request.protocol != PROTOCOL:
            raise RpcError(Code.FAILED_PRECONDITION, f"this guest speaks protocol {PROTOCOL}, not {request.protocol}")
        steps = [] if self._was_reset else self._boot_marks()

        def mark(name: str) -> None:
            steps.append(sandbox_pb2.BootMark(name=name, boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME)))

        adds = request.HasField("add")
        if adds and (request.HasField("configure") or request.add.id != request.process.id):
            raise RpcError(Code.INVALID_ARGUMENT, "`add` is for a further container, whose first process has its id")
        mark("request read")
        entry = self._processes.create(request.process)
        if request.HasField("configure"):
            await self.configure(request.configure, mark, entry.spec)
        elif adds:
            network_of = request.process.network_of
            await self._containers.add(request.add, network_of=network_of, program=entry.spec, mark=mark)
        await self._processes.start(entry.id, self._containers.own_namespace(entry.id))
        started = process_pb2.StartResponse(pid=entry.pid, started_ns=entry.started_ns)
        mark("program runs")
        await call.send(sandbox_pb2.LaunchResponse(started=started, steps=steps))
        async with aclosing(self._stdio.follow(request.process.id, 0)) as output:
            async for records in output:
                await call.send(sandbox_pb2.LaunchResponse(output=records))

    async def configure(
        self,
        request: sandbox_pb2.ConfigureRequest,
        mark: Callable[[str], None] = lambda _: None,
        program: Spec | None = None,
    ) -> sandbox_pb2.ConfigureResponse:
        async with self._configuring:
            if self._configured is not None:
                # Only the id counts: clock and entropy differ when the appliance repeats a request.
                if self._configured.machine_id != request.machine_id:
                    raise RpcError(
                        Code.FAILED_PRECONDITION, f"this VM is already configured as {self._configured.machine_id}"
                    )
                return sandbox_pb2.ConfigureResponse()
            # Never cancelled half-way: a caller that was cut off repeats the request, and receives the result then.
            with trio.CancelScope(shield=True):
                await self._configure(request, mark, program)
            self._configured = request
        return sandbox_pb2.ConfigureResponse()

    async def _configure(
        self, request: sandbox_pb2.ConfigureRequest, mark: Callable[[str], None], program: Spec | None
    ) -> None:
        self._set_clock_and_entropy(request)
        mark("clock and entropy")
        try:
            if request.hostname:
                socket.sethostname(request.hostname[:64])
            if request.domainname:
                linux.set_domainname(request.domainname[:64])
            for name in request.modules:
                modules.load(name)
            for key, value in request.sysctls.items():
                Path("/proc/sys", key.replace(".", "/")).write_text(value)
            write_files(request.files, f"{ROOT}/files")
        except OSError as error:
            raise RpcError(Code.FAILED_PRECONDITION, f"configure: {error}") from error
        mark("names and files")
        await self._containers.configure(request, program, mark)

    async def add(self, request: sandbox_pb2.AddRequest) -> sandbox_pb2.AddResponse:
        await self._containers.add(request)
        return sandbox_pb2.AddResponse()

    async def remove(self, request: sandbox_pb2.RemoveRequest) -> sandbox_pb2.RemoveResponse:
        await self._containers.remove(request)
        return sandbox_pb2.RemoveResponse()

    @staticmethod
    def _set_clock_and_entropy(request: sandbox_pb2.ConfigureRequest | sandbox_pb2.AwakenRequest) -> None:
        if request.wall_clock_ns:
            time.clock_settime_ns(time.CLOCK_REALTIME, request.wall_clock_ns)
        if request.entropy:
            linux.add_entropy(request.entropy[:512])

    async def reset(self, request: sandbox_pb2.ResetRequest) -> sandbox_pb2.ResetResponse:
        if self._processes.entries():
            raise RpcError(Code.FAILED_PRECONDITION, "the VM has processes")
        async with self._configuring:
            if self._configured is not None:
                network.remove(self._configured.network, self._leases)
            for target in reversed(mount_points(ROOT)):
                linux.umount(target)
            shutil.rmtree(f"{ROOT}/files", ignore_errors=True)
            self._containers.clear()
            self._configured = None
            self._was_reset = True
            self._processes.prepare()
        return sandbox_pb2.ResetResponse()

    async def awaken(self, request: sandbox_pb2.AwakenRequest) -> sandbox_pb2.AwakenResponse:
        closed = 0
        if request.id and request.network.interfaces:
            raise RpcError(Code.INVALID_ARGUMENT, "NICs are those of the first container")
        try:
            self._set_clock_and_entropy(request)
            write_files(request.files, f"{self._containers.base(request.id)}/files")
            if request.close_connections:
                # Before the addresses change, so that the kernel can still send a reset to each peer.
                modules.load("tcp_diag")
                closed = close_tcp()
        except OSError as error:
            raise RpcError(Code.FAILED_PRECONDITION, f"awaken: {error}") from error
        if self._configured is not None and request.network.interfaces:
            network.remove(self._configured.network, self._leases)
            await network.apply(request.network, self._leases)
            self._configured.network.CopyFrom(request.network)
        return sandbox_pb2.AwakenResponse(closed=closed)

    async def shutdown(self, request: sandbox_pb2.ShutdownRequest) -> sandbox_pb2.ShutdownResponse:
        await self._processes.end_all(request.grace_ms / 1000)
        # Unmount the container's disk cleanly: the container may be started again.
        for target in reversed(mount_points(ROOT)):
            try:
                linux.umount(target)
            except OSError:
                os.sync()
        self._nursery.start_soon(self._power_off)
        return sandbox_pb2.ShutdownResponse()

    async def _power_off(self) -> None:
        await trio.sleep(_POWER_OFF_DELAY)
        linux.power_off()
