"""The table of processes, with a fake launcher, a fake reaper and a directory in place of the kernel's cgroups."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from protos.tether.v1 import process_pb2
from tether.agent import process_table
from tether.agent.process import ProcessService
from tether.agent.process_table import Phase, ProcessTable
from tether.launch.failure import Kind, LaunchFailure
from tether.launch.launcher import Launched, Stdio
from tether.launch.spec import Spec
from tether.rpc.status import Code, RpcError
from tether.system import cgroup

SPEC = json.dumps({"process": {"args": ["true"]}, "ociVersion": "1.0.2"}).encode()
_PID = 4242


class FakeReaper:
    """Holds what is to be called when a process ends."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[int], None]] = {}

    def watch(self, pid: int, on_exit: Callable[[int], None]) -> None:
        self.watched[pid] = on_exit


class FakeLauncher:
    """Stands in for `launch`: writes `output` to the child's stdout, or fails."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.output = b""
        self.launches = 0

    async def __call__(self, spec: Spec, stdio: Stdio, group: int, **_: Any) -> Launched:
        await trio.lowlevel.checkpoint()
        self.launches += 1
        if self.failure is not None:
            raise self.failure
        os.write(stdio.stdout, self.output)
        return Launched(_PID, -1)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeLauncher:
    made = FakeLauncher()
    monkeypatch.setattr(process_table, "launch", made)
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    return made


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr("tether.agent.process_table.os.kill", lambda pid, number: sent.append((pid, number)))
    return sent


def _request(**fields: Any) -> process_pb2.CreateRequest:
    return process_pb2.CreateRequest(**{"id": "one", "spec": SPEC, **fields})


def _table(nursery: trio.Nursery) -> tuple[ProcessTable, FakeReaper]:
    reaper = FakeReaper()
    return ProcessTable(nursery, reaper), reaper  # type: ignore[arg-type]


async def test_creating_is_idempotent(nursery: trio.Nursery, launcher: FakeLauncher) -> None:
    table, _ = _table(nursery)
    entry = table.create(_request())
    assert table.create(_request()) is entry
    with pytest.raises(RpcError) as caught:
        table.create(_request(stdin=True))
    assert caught.value.code is Code.ALREADY_EXISTS
    table.delete("one")
    assert not table.entries()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"id": ""}, Code.INVALID_ARGUMENT),
        ({"id": "a/b"}, Code.INVALID_ARGUMENT),
        ({"id": "x" * 129}, Code.INVALID_ARGUMENT),
        ({"spec": b"{"}, Code.INVALID_ARGUMENT),
        ({"spec": b'{"process": {}, "ociVersion": "1"}'}, Code.INVALID_ARGUMENT),
        ({"join": "nobody"}, Code.NOT_FOUND),
    ],
)
async def test_malformed_requests(
    nursery: trio.Nursery, launcher: FakeLauncher, fields: dict[str, Any], code: Code
) -> None:
    table, _ = _table(nursery)
    with pytest.raises(RpcError) as caught:
        table.create(_request(**fields))
    assert caught.value.code is code
    assert not table.entries()


async def test_a_process_runs_and_ends(nursery: trio.Nursery, launcher: FakeLauncher) -> None:
    launcher.output = b"hello"
    table, reaper = _table(nursery)
    service = ProcessService(table, reaper)  # type: ignore[arg-type]
    table.create(_request())
    async with trio.open_nursery() as both:
        # A repeated start, as after a lost answer.
        both.start_soon(table.start, "one")
        both.start_soon(table.start, "one")
    assert launcher.launches == 1
    entry = table.find_running("one")
    assert (entry.pid, table.pid_of("one")) == (_PID, _PID)
    with pytest.raises(RpcError, match="process one is running"):
        table.delete("one")
    reaper.watched[_PID](3 << 8)
    status = (await service.wait(process_pb2.WaitRequest(id="one"))).status
    assert (status.code, status.signal, status.final_offset) == (3, 0, 5)
    assert b"".join(record.data for record in entry.spool.read(0)) == b"hello"
    (listed,) = service.list(process_pb2.ListRequest()).processes
    assert (listed.id, listed.phase, listed.exit) == ("one", process_pb2.ProcessState.EXITED, status)
    with pytest.raises(RpcError) as caught:
        table.find_running("one")
    assert caught.value.code is Code.FAILED_PRECONDITION
    table.delete("one")
    with pytest.raises(RpcError) as caught:
        table.delete("one")
    assert caught.value.code is Code.NOT_FOUND


async def test_a_signal_ends_a_process(
    nursery: trio.Nursery, launcher: FakeLauncher, signals: list[tuple[int, int]], tmp_path: Path
) -> None:
    table, reaper = _table(nursery)
    service = ProcessService(table, reaper)  # type: ignore[arg-type]
    table.create(_request())
    await table.start("one")
    service.signal(process_pb2.SignalRequest(id="one", signal=signal.SIGTERM))
    assert signals == [(_PID, signal.SIGTERM)]
    service.signal(process_pb2.SignalRequest(id="one", signal=signal.SIGKILL, all=True))
    assert (tmp_path / "container-1/cgroup.kill").read_text() == "1"
    with pytest.raises(RpcError, match="no such signal: 65"):
        service.signal(process_pb2.SignalRequest(id="one", signal=65))
    reaper.watched[_PID](signal.SIGKILL)
    status = (await service.wait(process_pb2.WaitRequest(id="one"))).status
    assert (status.code, status.signal, status.oom_killed) == (0, signal.SIGKILL, False)


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        (
            LaunchFailure(Kind.NOT_FOUND, "exec", "nope", 2, True),
            process_pb2.StartFailure.NOT_FOUND,
            "exec nope: no such file or directory",
        ),
        (OSError(28, "full"), process_pb2.StartFailure.OTHER, "[Errno 28] full : no space left on device"),
    ],
)
async def test_a_failed_start_says_why_each_time(
    nursery: trio.Nursery, launcher: FakeLauncher, failure: Exception, kind: int, text: str
) -> None:
    launcher.failure = failure
    table, _ = _table(nursery)
    table.create(_request())
    for _ in range(2):
        with pytest.raises(RpcError) as caught:
            await table.start("one")
        detail = caught.value.detail(process_pb2.StartFailure)
        assert detail is not None
        assert (caught.value.code, caught.value.message, detail.kind) == (Code.FAILED_PRECONDITION, text, kind)
    assert launcher.launches == 1
    assert table.find("one").phase is Phase.FAILED
    table.delete("one")


async def test_limits_are_set_before_the_start_and_can_change(
    nursery: trio.Nursery, launcher: FakeLauncher, tmp_path: Path
) -> None:
    table, reaper = _table(nursery)
    service = ProcessService(table, reaper)  # type: ignore[arg-type]
    linux = {"resources": {"memory": {"limit": 1 << 20}, "cpu": {}}}
    table.create(_request(spec=json.dumps({**json.loads(SPEC), "linux": linux}).encode()))
    await table.start("one")
    assert (tmp_path / "container-1/memory.max").read_text() == "1048576"
    service.update(process_pb2.UpdateRequest(id="one", resources=b'{"pids": {"limit": 5}}'))
    assert (tmp_path / "container-1/pids.max").read_text() == "5"
    with pytest.raises(RpcError, match="malformed resources: pids: limit: not of type int") as caught:
        service.update(process_pb2.UpdateRequest(id="one", resources=b'{"pids": {"limit": "5"}}'))
    assert caught.value.code is Code.INVALID_ARGUMENT
    reaper.watched[_PID](0)


async def test_an_exec_needs_a_running_container(nursery: trio.Nursery, launcher: FakeLauncher) -> None:
    table, _ = _table(nursery)
    table.create(_request())
    table.create(_request(id="exec", join="one"))
    with pytest.raises(RpcError, match="join one: no such process"):
        await table.start("exec")
    assert launcher.launches == 0


async def test_ending_all_kills_what_does_not_end(
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    launcher: FakeLauncher,
    signals: list[tuple[int, int]],
    tmp_path: Path,
) -> None:
    table, reaper = _table(nursery)
    table.create(_request())
    await table.start("one")
    start = trio.current_time()
    await table.end_all(5.0)
    assert signals == [(_PID, signal.SIGTERM)]
    assert (tmp_path / "container-1/cgroup.kill").read_text() == "1"
    assert trio.current_time() - start == pytest.approx(7.0)
    reaper.watched[_PID](signal.SIGKILL)
    await table.find("one").ended.wait()
