"""One run: output on its way to the log and the clients, the end of process and machine, errors and cancellation."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.container.config import ContainerConfig
from appliance.container.exec_config import ExecConfig
from appliance.container.host_config import HostConfig
from appliance.container.spec import build_exec_spec
from appliance.engine.model.pod import Pod
from appliance.engine.model.run import Ended, Run, RunningProcess, RunStreams
from appliance.errors import HypervisorError, InvalidParameter, VchError
from appliance.guest import Attachment, ExitStatus, Fanout, GuestSession, Output, OutputRecord, ProcessSetup, StdinPipe
from appliance.hypervisor import MachineSpec
from appliance.hypervisor.fake import FakeDriver, FakeMachine
from appliance.streams.logfile import LogFile, Place
from tests.appliance.engine.guest import Process, Program, Vm, echo
from tests.appliance.engine.harness import Host
from tests.steps import cpu_of_steps
from tether.rpc.bridge import LoopThread
from tether.transport import JunkAllowance

Clock = trio.testing.MockClock
PROCESS = "one"


async def deaf(_: Process) -> int:
    await trio.sleep_forever()
    return 0


class Talkative(FakeMachine):
    """A machine whose console has a last line."""

    def last_words(self) -> str:
        return "Kernel panic"


class Room:
    """A machine that is on, and a run that has not begun."""

    def __init__(self, host: Host, machine: FakeMachine, session: GuestSession, log: LogFile, folder: Path) -> None:
        self.host = host
        self.machine = machine
        self.fanout = Fanout()
        self.stdin = StdinPipe()
        self.began = trio.Event()
        self.endings: list[Ended] = []
        self.released = 0
        self._folder = folder
        self.pod = Pod(machine, session)
        self.pod.sit(PROCESS, first=True)
        self.log = log
        self.run = self.make_run(cleans_disks=True)

    def make_run(self, *, cleans_disks: bool) -> Run:
        streams = RunStreams(self.fanout, self.stdin, self.log, lambda: None)
        return Run(PROCESS, self.pod, streams, self._release, cleans_disks=cleans_disks)

    def _release(self) -> None:
        self.released += 1

    async def begin(self, run: Run, stack: AsyncExitStack) -> RunningProcess:
        """Start the process."""
        spec = build_exec_spec(ContainerConfig(), HostConfig(), ExecConfig(cmd=["program"]))
        launched = await stack.enter_async_context(
            run.session.launch(None, ProcessSetup(PROCESS, spec, stdin=True), 10)
        )
        self.began.set()
        return RunningProcess(0, launched.output())

    async def on_exit(self, ended: Ended) -> None:
        assert not self.run.gone.is_set()
        self.endings.append(ended)

    async def supervise(self) -> None:
        await self.run.supervise(self.begin, self.on_exit)

    @property
    def logged(self) -> bytes:
        return (self._folder / "log.data").read_bytes()

    @property
    def journal(self) -> list[str]:
        return [action for action, _ in self.host.vms.journal]

    @property
    def end(self) -> ExitStatus:
        (ended,) = self.endings
        assert ended.status is not None
        return ended.status


MakeRoom = Callable[..., Awaitable[Room]]


@pytest.fixture
async def loop() -> AsyncIterator[LoopThread]:
    async with LoopThread.open() as thread:
        yield thread


@pytest.fixture
async def make_room(nursery: trio.Nursery, tmp_path: Path, loop: LoopThread) -> AsyncIterator[MakeRoom]:
    logs: list[LogFile] = []
    async with trio.open_nursery() as pods:

        async def make(program: Program = echo, machine_type: type[FakeMachine] = FakeMachine) -> Room:
            host = Host(nursery, program)
            machine = await FakeDriver(host.vms, machine_type).create(MachineSpec("m", 1, 1))
            await machine.start()
            logs.append(LogFile(tmp_path, framed=False))
            room = Room(host, machine, GuestSession(loop, await machine.dial_tether()), logs[-1], tmp_path)
            pods.start_soon(room.pod.run)
            return room

        yield make
        pods.cancel_scope.cancel()
    for log in logs:
        log.close()


async def test_a_run_to_its_end(make_room: MakeRoom) -> None:
    async def program(process: Process) -> int:
        process.write("hello\n")
        process.write("bye\n")
        return 3

    room = await make_room(program)
    attachment = room.fanout.attach(frozenset({1, 2}))

    async def on_exit(ended: Ended) -> None:
        # All output is in the log, and the machine is still there.
        assert room.logged == b"hello\nbye\n"
        assert room.machine.vm.on
        await room.on_exit(ended)

    await room.run.supervise(room.begin, on_exit)
    assert (room.end.code, room.end.signal) == (3, 0)
    assert room.run.offset == len(room.logged)
    assert (room.run.gone.is_set(), room.released) == (True, 1)
    assert room.journal == ["create", "start", "destroy"]
    room.fanout.end_run()
    assert b"".join([data async for _, data in attachment.output()]) == b"hello\nbye\n"


@pytest.mark.parametrize("how", ["cleans", "does not", "skips"])
async def test_disks_are_cleaned_if_they_are_used_again(make_room: MakeRoom, how: str) -> None:
    room = await make_room()
    room.run = room.make_run(cleans_disks=how != "does not")
    if how == "skips":
        room.run.skip_cleaning()
    off = room.host.guest.vms.setdefault("m", Vm()).off
    await room.supervise()
    # Shutdown unmounts the disks.
    assert off.is_set() is (how == "cleans")
    assert room.journal[-1] == "destroy"


async def test_stdin_reaches_the_process(make_room: MakeRoom) -> None:
    async def cat(process: Process) -> int:
        while data := await process.read():
            process.write(data.decode())
        return 0

    room = await make_room(cat)
    assert await room.stdin.write(b"some words")
    room.stdin.close()
    await room.supervise()
    assert room.logged == b"some words"


async def test_output_is_acknowledged_once_it_is_on_disk(make_room: MakeRoom, mock_clock: Clock) -> None:
    mock_clock.rate = 1

    async def program(process: Process) -> int:
        process.write("hello\n")
        await process.wait_signal()
        return 0

    room = await make_room(program)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.supervise)
        await room.began.wait()
        spool = room.host.guest.process(PROCESS).spool
        while not spool.acknowledged:
            await trio.testing.wait_all_tasks_blocked(0.002)
            mock_clock.jump(0.05)
        assert spool.acknowledged == len("hello\n")
        assert room.logged == b"hello\n"
        room.host.guest.process(PROCESS).signal(15)


async def test_a_machine_that_dies(make_room: MakeRoom) -> None:
    room = await make_room(deaf, machine_type=Talkative)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.supervise)
        await room.began.wait()
        # The run follows the output by now.
        await trio.testing.wait_all_tasks_blocked(0.02)
        room.host.power_off("m")
    assert room.endings == [Ended(None, "the machine ended by itself\nKernel panic")]
    assert (room.run.gone.is_set(), room.released, room.journal[-1]) == (True, 1, "destroy")


async def test_a_guest_that_floods_its_port_loses_its_machine_at_once(
    make_room: MakeRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await make_room(deaf)
    errors: list[VchError] = []

    async def supervise() -> None:
        try:
            await room.supervise()
        except VchError as error:
            errors.append(error)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise)
            await room.began.wait()
            monkeypatch.setattr(JunkAllowance, "exceeded", lambda *_: True)
            room.run.session.reset_link()
    assert [str(error) for error in errors] == ["the guest sends junk to its tether's port"]
    assert (room.run.gone.is_set(), room.released, room.journal[-1]) == (True, 1, "destroy")


async def test_a_machine_that_dies_before_its_process_runs(make_room: MakeRoom) -> None:
    room = await make_room(deaf)

    async def begin(run: Run, stack: AsyncExitStack) -> RunningProcess:
        room.host.power_off("m")
        return await room.begin(run, stack)

    with pytest.raises(HypervisorError, match=r"^the machine ended by itself$"):
        await room.run.supervise(begin, room.on_exit)
    assert room.endings == []
    assert (room.run.gone.is_set(), room.released, room.journal[-1]) == (True, 1, "destroy")


async def test_a_process_that_does_not_start(make_room: MakeRoom) -> None:
    room = await make_room()

    async def begin(_: Run, __: AsyncExitStack) -> RunningProcess:
        raise InvalidParameter("no such file")

    with pytest.raises(InvalidParameter, match=r"^no such file$"):
        await room.run.supervise(begin, room.on_exit)
    assert room.endings == []
    assert (room.run.gone.is_set(), room.released, room.journal[-1]) == (True, 1, "destroy")


async def test_a_daemon_that_ends_leaves_the_machine(make_room: MakeRoom) -> None:
    room = await make_room(deaf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.supervise)
        await room.began.wait()
        nursery.cancel_scope.cancel()
    assert room.machine.vm.on
    assert room.endings == []
    assert (room.run.gone.is_set(), room.released, room.journal) == (False, 0, ["create", "start"])


async def test_output_that_was_read_before_is_not_logged_twice(make_room: MakeRoom) -> None:
    room = await make_room(deaf)

    async def output() -> AsyncGenerator[Output, None]:
        # The guest's records do not begin where the log ends.
        yield Output([OutputRecord(1, 1, 0, b"abc"), OutputRecord(1, 2, 3, b"defg")])
        yield Output([OutputRecord(1, 3, 7, b"hi")], ExitStatus(0, 0, False))

    async def begin(run: Run, stack: AsyncExitStack) -> RunningProcess:
        await room.begin(run, stack)
        return RunningProcess(5, output())

    await room.run.supervise(begin, room.on_exit)
    assert room.logged == b"fghi"
    assert room.run.offset == 9


async def test_what_accompanies_a_run(make_room: MakeRoom) -> None:
    room = await make_room(deaf)
    done: list[str] = []

    async def short(name: str) -> None:
        done.append(name)

    async def endless() -> None:
        try:
            await trio.sleep_forever()
        finally:
            done.append("cancelled")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.supervise)
        await room.began.wait()
        nursery.start_soon(room.run.accompany, short, "short")
        nursery.start_soon(room.run.accompany, endless)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert done == ["short"]
        room.host.power_off("m")
    assert done == ["short", "cancelled"]


@pytest.mark.parametrize("how", ["yes", "one byte at a time", "no line feed"])
async def test_a_program_that_floods_keeps_no_turn_long(make_room: MakeRoom, how: str) -> None:
    """`yes ""` made each ping take a second: a record of 256 KiB was split, framed and written in one turn."""
    total = 1 << 20

    async def program(process: Process) -> int:
        if how == "one byte at a time":
            for _ in range(4000):
                process.write("\n")
        else:
            for _ in range(4):
                process.write(("\n" if how == "yes" else "x") * (total // 4))
        return 0

    room = await make_room(program)
    attachment = room.fanout.attach(frozenset({1, 2}))
    received = bytearray()

    async def read() -> None:
        async for _, data in attachment.output():
            received.extend(data)

    with cpu_of_steps() as steps:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await room.supervise()
            room.fanout.end_run()
    assert bytes(received) == room.logged
    assert len(received) == (4000 if how == "one byte at a time" else total)
    assert steps.longest < 0.05, steps


async def test_who_attaches_during_a_flood_finds_each_byte_once(make_room: MakeRoom) -> None:
    """In the log, or live: a large record is logged in a thread, meanwhile clients come."""
    go_on = trio.Event()

    async def program(process: Process) -> int:
        await go_on.wait()
        for number in range(20):
            process.write(f"{number:05}\n" * 2000)
            await trio.sleep(0.002)
        return 0

    room = await make_room(program)
    seen: list[tuple[int, bytearray]] = []

    async def read(attachment: Attachment, before: int) -> None:
        received = bytearray()
        seen.append((before, received))
        async for _, data in attachment.output():
            received.extend(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.supervise)
        await room.began.wait()
        go_on.set()
        while not room.endings:
            log = room.log
            before = log.position(Place(log.entries))
            nursery.start_soon(read, room.fanout.attach(frozenset({1, 2})), before)
            await trio.sleep(0.001)
        room.fanout.end_run()
    whole = room.logged
    assert len(seen) > 5
    for before, received in seen:
        assert whole[before:] == received
