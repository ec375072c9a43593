"""The Process service: signals, limits, terminal sizes and the freezer, on a table with a fake launcher."""

import json
import signal
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from protos.tether.v1 import process_pb2
from tests.tether.agent.processes import PID, SPEC, FakeLauncher, create_request, make_table
from tether.agent.process import ProcessService
from tether.rpc.status import Code, RpcError


async def test_a_signal_ends_a_process(
    nursery: trio.Nursery, launcher: FakeLauncher, signals: list[tuple[int, int]], tmp_path: Path
) -> None:
    table, reaper = make_table(nursery)
    service = ProcessService(table, reaper)  # type: ignore[arg-type]
    table.create(create_request())
    await table.start("one")
    service.signal(process_pb2.SignalRequest(id="one", signal=signal.SIGTERM))
    assert signals == [(PID, signal.SIGTERM)]
    service.signal(process_pb2.SignalRequest(id="one", signal=signal.SIGKILL, all=True))
    assert (tmp_path / "container-1/cgroup.kill").read_text() == "1"
    with pytest.raises(RpcError, match="no such signal: 65"):
        service.signal(process_pb2.SignalRequest(id="one", signal=65))
    reaper.watched[PID](signal.SIGKILL)
    status = (await service.wait(process_pb2.WaitRequest(id="one"))).status
    assert (status.code, status.signal, status.oom_killed) == (0, signal.SIGKILL, False)


async def test_limits_are_set_before_the_start_and_can_change(
    nursery: trio.Nursery, launcher: FakeLauncher, tmp_path: Path
) -> None:
    table, reaper = make_table(nursery)
    service = ProcessService(table, reaper)  # type: ignore[arg-type]
    linux = {"resources": {"memory": {"limit": 1 << 20}, "cpu": {}}}
    table.create(create_request(spec=json.dumps({**json.loads(SPEC), "linux": linux}).encode()))
    await table.start("one")
    assert (tmp_path / "container-1/memory.max").read_text() == "1048576"
    service.update(process_pb2.UpdateRequest(id="one", resources=b'{"pids": {"limit": 5}}'))
    assert (tmp_path / "container-1/pids.max").read_text() == "5"
    with pytest.raises(RpcError, match="malformed resources: pids: limit: not of type int") as caught:
        service.update(process_pb2.UpdateRequest(id="one", resources=b'{"pids": {"limit": "5"}}'))
    assert caught.value.code is Code.INVALID_ARGUMENT
    reaper.watched[PID](0)


async def _running(nursery: trio.Nursery) -> ProcessService:
    table, reaper = make_table(nursery)
    table.create(create_request())
    await table.start("one")
    return ProcessService(table, reaper)  # type: ignore[arg-type]


async def test_pausing_waits_for_the_kernel(
    autojump_clock: MockClock, nursery: trio.Nursery, launcher: FakeLauncher, tmp_path: Path
) -> None:
    service = await _running(nursery)
    events = tmp_path / "container-1/cgroup.events"
    events.write_text("frozen 0\n")
    async with trio.open_nursery() as both:
        both.start_soon(service.pause, process_pb2.PauseRequest(id="one"))
        await trio.sleep(1)
        assert (tmp_path / "container-1/cgroup.freeze").read_text() == "1"
        events.write_text("frozen 1\n")
    (state,) = service.list(process_pb2.ListRequest()).processes
    assert state.phase == process_pb2.ProcessState.PAUSED
    events.write_text("frozen 0\n")
    await service.resume(process_pb2.ResumeRequest(id="one"))
    assert (tmp_path / "container-1/cgroup.freeze").read_text() == "0"
    nursery.cancel_scope.cancel()


async def test_a_process_that_cannot_be_frozen_goes_on(
    autojump_clock: MockClock, nursery: trio.Nursery, launcher: FakeLauncher, tmp_path: Path
) -> None:
    service = await _running(nursery)
    (tmp_path / "container-1/cgroup.events").write_text("frozen 0\n")
    with pytest.raises(RpcError, match="process one cannot be frozen") as caught:
        await service.pause(process_pb2.PauseRequest(id="one"))
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert (tmp_path / "container-1/cgroup.freeze").read_text() == "0"
    nursery.cancel_scope.cancel()


async def test_only_a_terminal_has_a_size(nursery: trio.Nursery, launcher: FakeLauncher) -> None:
    service = await _running(nursery)
    with pytest.raises(RpcError, match="process one has no terminal"):
        service.resize_pty(process_pb2.ResizePtyRequest(id="one", rows=1, columns=1))
    nursery.cancel_scope.cancel()
