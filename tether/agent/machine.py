"""The guest as a whole: Sandbox of protos/tether/v1/sandbox.proto."""

import os
import re
import socket
import time
from pathlib import Path

import trio

from protos.tether.v1 import sandbox_pb2
from tether import __version__
from tether.agent import network
from tether.agent.files import make_mount
from tether.agent.process import ProcessService
from tether.rpc.status import Code, RpcError
from tether.system import linux
from tether.system.netlink import loopback_up

PROTOCOL = 1
FILES = Path("/run/tether/files")
_MODULES = Path("/lib/modules/later.list")


class SandboxService:
    def __init__(self, nursery: trio.Nursery, processes: ProcessService, marks: list[tuple[str, int]]) -> None:
        self._nursery = nursery
        self._processes = processes
        self._marks = marks
        self._boot_id = os.urandom(16)
        self._configured: sandbox_pb2.ConfigureRequest | None = None
        self._configuring = trio.Lock()

    def hello(self, request: sandbox_pb2.HelloRequest) -> sandbox_pb2.HelloResponse:
        memory = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M))
        return sandbox_pb2.HelloResponse(
            protocol=PROTOCOL,
            version=__version__,
            boot_id=self._boot_id,
            machine_id=self._configured.machine_id if self._configured else "",
            monotonic_ns=time.monotonic_ns(),
            boot=[sandbox_pb2.BootMark(name=name, boottime_ns=at) for name, at in self._marks],
            kernel=os.uname().release,
            memory_total=int(memory.get("MemTotal", 0)) * 1024,
            memory_available=int(memory.get("MemAvailable", 0)) * 1024,
        )

    async def configure(self, request: sandbox_pb2.ConfigureRequest) -> sandbox_pb2.ConfigureResponse:
        async with self._configuring:
            if self._configured is not None:
                # Clock and entropy differ between two sendings of the same request.
                if self._configured.machine_id != request.machine_id:
                    raise RpcError(Code.FAILED_PRECONDITION, f"this machine is {self._configured.machine_id}")
                return sandbox_pb2.ConfigureResponse()
            # Not cancelled half way: a caller that goes away asks again and gets the result.
            with trio.CancelScope(shield=True):
                await self._configure(request)
            self._configured = request
        return sandbox_pb2.ConfigureResponse()

    async def _configure(self, request: sandbox_pb2.ConfigureRequest) -> None:
        if request.wall_clock_ns:
            time.clock_settime_ns(time.CLOCK_REALTIME, request.wall_clock_ns)
        try:
            if request.entropy:
                linux.add_entropy(request.entropy[:512])
            if request.hostname:
                socket.sethostname(request.hostname[:64])
            if request.domainname:
                linux.set_domainname(request.domainname[:64])
            for name in request.modules:
                self._load(name)
            for key, value in request.sysctls.items():
                Path("/proc/sys", key.replace(".", "/")).write_text(value)
            FILES.mkdir(parents=True, exist_ok=True)
            for file in request.files:
                if "/" in file.name or file.name in ("", ".", ".."):
                    raise RpcError(Code.INVALID_ARGUMENT, f"not a plain file name: {file.name}")
                (FILES / file.name).write_bytes(file.content)
                (FILES / file.name).chmod(file.mode or 0o644)
            loopback_up()
        except OSError as error:
            raise RpcError(Code.FAILED_PRECONDITION, f"configure: {error}") from error
        for mount in request.mounts:
            await make_mount(mount)
        await network.apply(request.network)

    @staticmethod
    def _load(name: str) -> None:
        """Load a module and what it needs; the list is in an order in which that works."""
        wanted = f"{name}.ko"
        paths = _MODULES.read_text().split()
        if not any(Path(path).name == wanted for path in paths):
            raise RpcError(Code.NOT_FOUND, f"no kernel module {name}")
        for path in paths[: [Path(path).name for path in paths].index(wanted) + 1]:
            try:
                linux.load_module(path)
            except OSError:
                if Path(path).name == wanted:
                    raise

    def set_clock(self, request: sandbox_pb2.SetClockRequest) -> sandbox_pb2.SetClockResponse:
        time.clock_settime_ns(time.CLOCK_REALTIME, request.wall_clock_ns)
        return sandbox_pb2.SetClockResponse()

    def reseed_random(self, request: sandbox_pb2.ReseedRandomRequest) -> sandbox_pb2.ReseedRandomResponse:
        linux.add_entropy(request.entropy[:512])
        return sandbox_pb2.ReseedRandomResponse()

    def shutdown(self, request: sandbox_pb2.ShutdownRequest) -> sandbox_pb2.ShutdownResponse:
        self._nursery.start_soon(self._power_off, request.grace_ms / 1000)
        return sandbox_pb2.ShutdownResponse()

    async def _power_off(self, grace: float) -> None:
        await self._processes.end_all(grace)
        # The file system of the upper disk is made clean: the container may be started again.
        mounts = [
            line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if "/run/tether/" in line
        ]
        for target in reversed(mounts):
            try:
                linux.umount(target.replace("\\040", " "))
            except OSError:
                os.sync()
        linux.power_off()
