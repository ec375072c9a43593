"""The link between appliance and guest is reset again and again: nothing is lost, nothing doubled, no exit forgotten."""

import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from appliance.engine.model.pod import Pod
from appliance.engine.model.run import Ended, Run, RunningProcess, RunStreams
from appliance.guest import Fanout, GuestSession, StdinPipe
from appliance.hypervisor import Machine, MachineSpec
from appliance.hypervisor.fake import FakeDriver, FakeHost
from appliance.streams.logfile import LogFile
from protos.tether.v1 import process_pb2, sandbox_pb2, stdio_pb2
from tests.tether.rpc.echo import random_id
from tether.agent.stdio import STDOUT, Spool, Stdin, StdioService, pump_out
from tether.rpc.bridge import LoopThread
from tether.rpc.call import Method
from tether.rpc.listener import serve_link
from tether.transport import Line, LineClosed

PROCESS = "one"


@dataclass
class Cat:
    """A process that writes what it reads, behind the tether's own stdio, and ends at end of file with code 7."""

    spool: Spool
    stdin: Stdin
    reading: int
    ended: trio.Event

    @classmethod
    def make(cls) -> "Cat":
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        return cls(Spool(1 << 20, False), Stdin(writing), reading, trio.Event())

    async def run(self) -> None:
        await pump_out(self.reading, STDOUT, self.spool)
        self.spool.close()
        self.ended.set()

    async def wait(self, request: process_pb2.WaitRequest) -> process_pb2.WaitResponse:
        await self.ended.wait()
        return process_pb2.WaitResponse(status=process_pb2.ExitStatus(code=7))

    async def guest(self, _spec: MachineSpec, line: Line) -> None:
        service = StdioService(lambda _: (self.stdin, self.spool))
        off = trio.Event()

        def shut_down(_request: sandbox_pb2.ShutdownRequest) -> sandbox_pb2.ShutdownResponse:
            off.set()
            return sandbox_pb2.ShutdownResponse()

        methods = {
            b"/tether.v1.Process/Wait": Method(self.wait, process_pb2.WaitRequest, False, False, True),
            b"/tether.v1.Stdio/Attach": Method(service.attach, stdio_pb2.AttachRequest, True, True, True),
            b"/tether.v1.Log/Read": Method(service.read, stdio_pb2.ReadRequest, False, True, True),
            b"/tether.v1.Log/Ack": Method(service.ack, stdio_pb2.AckRequest, False, False, False),
            b"/tether.v1.Sandbox/Shutdown": Method(shut_down, sandbox_pb2.ShutdownRequest, False, False, False),
        }
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_link, line, methods, random_id)
                await off.wait()
                nursery.cancel_scope.cancel()
        except* LineClosed:
            await trio.sleep_forever()


@asynccontextmanager
async def cat_run(folder: Path) -> AsyncIterator[tuple[Run, StdinPipe, Machine]]:
    async with LoopThread.open() as loop, trio.open_nursery() as nursery:
        cat = Cat.make()
        nursery.start_soon(cat.run)
        driver = FakeDriver(FakeHost(nursery, cat.guest))
        machine = await driver.create(MachineSpec("m", 1, 1))
        await machine.start()
        stdin = StdinPipe()
        log = LogFile(folder, framed=False)
        session = GuestSession(loop, await machine.dial_tether())
        streams = RunStreams(Fanout(), stdin, log, lambda: None)
        pod = Pod(machine, session)
        pod.sit(PROCESS, first=True)
        nursery.start_soon(pod.run)
        run = Run(PROCESS, pod, streams, lambda: None, cleans_disks=True)
        yield run, stdin, machine
        log.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(3))
async def test_stdin_output_and_exit_through_resets(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    data = source.randbytes(8 << 20)
    endings: list[Ended] = []
    async with cat_run(tmp_path) as (run, stdin, _), trio.open_nursery() as nursery:

        async def begin(_run: Run, _: AsyncExitStack) -> RunningProcess:
            return RunningProcess(0)

        async def on_exit(ended: Ended) -> None:
            endings.append(ended)
            nursery.cancel_scope.cancel()

        async def feed() -> None:
            for start in range(0, len(data), 300_000):
                assert await stdin.write(data[start : start + 300_000])
            stdin.close()

        async def vandal() -> None:
            """Resets after so much progress, not after so much time: on a busy machine the rest would starve."""
            seen = 0
            while True:
                await trio.sleep(0.002)
                size = (tmp_path / "log.data").stat().st_size
                if size >= seen:
                    seen = size + source.choice((1, 1000, 100_000, 3_000_000))
                    run.session.reset_link()

        nursery.start_soon(feed)
        nursery.start_soon(vandal)
        with trio.fail_after(120):
            await run.supervise(begin, on_exit)
    assert endings[0].status is not None
    assert endings[0].status.code == 7
    assert run.session.sessions > 3
    assert (tmp_path / "log.data").read_bytes() == data
