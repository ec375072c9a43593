"""The table of processes, with a fake launcher, a fake reaper and a directory in place of the kernel's cgroups."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from protos.tether.v1 import process_pb2
from tests.tether.agent.processes import PID, FakeLauncher, create_request, make_table
from tether.agent.process import ProcessService
from tether.agent.process_table import Phase, send_signal
from tether.launch.failure import Kind, LaunchFailure
from tether.rpc.status import Code, RpcError


async def test_creating_is_idempotent(nursery: trio.Nursery, launcher: FakeLauncher) -> None:
    table, _ = make_table(nursery)
    entry = table.create(create_request())
    assert table.create(create_request()) is entry
    with pytest.raises(RpcError) as caught:
        table.create(create_request(stdin=True))
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
    table, _ = make_table(nursery)
    with pytest.raises(RpcError) as caught:
        table.create(create_request(**fields))
    assert caught.value.code is code
    assert not table.entries()


async def test_a_process_runs_and_ends(nursery: trio.Nursery, launcher: FakeLauncher) -> None:
    launcher.output = b"hello"
    table, reaper = make_table(nursery)
    service = ProcessService(table, reaper)  # type: ignore[arg-type]
    table.create(create_request())
    async with trio.open_nursery() as both:
        # A repeated start, as after a lost answer.
        both.start_soon(table.start, "one")
        both.start_soon(table.start, "one")
    assert launcher.launches == 1
    entry = table.find_running("one")
    assert (entry.pid, table.pid_of("one")) == (PID, PID)
    with pytest.raises(RpcError, match="process one is running"):
        table.delete("one")
    reaper.watched[PID](3 << 8)
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
    table, _ = make_table(nursery)
    table.create(create_request())
    for _ in range(2):
        with pytest.raises(RpcError) as caught:
            await table.start("one")
        detail = caught.value.detail(process_pb2.StartFailure)
        assert detail is not None
        assert (caught.value.code, caught.value.message, detail.kind) == (Code.FAILED_PRECONDITION, text, kind)
    assert launcher.launches == 1
    assert table.find("one").phase is Phase.FAILED
    table.delete("one")


async def test_an_exec_needs_a_running_container(nursery: trio.Nursery, launcher: FakeLauncher) -> None:
    table, _ = make_table(nursery)
    table.create(create_request())
    table.create(create_request(id="exec", join="one"))
    with pytest.raises(RpcError, match="join one: no such process"):
        await table.start("exec")
    assert launcher.launches == 0


async def test_a_process_that_was_reaped_does_not_run(
    nursery: trio.Nursery, launcher: FakeLauncher, signals: list[tuple[int, int]]
) -> None:
    """Another process may have its pid while its output waits for an acknowledgement."""
    launcher.output = bytes(4096)
    table, reaper = make_table(nursery)
    table.create(create_request(spool_bytes=4096, id="one"))
    table.create(create_request(id="exec", join="one"))
    entry = await table.start("one")
    await trio.testing.wait_all_tasks_blocked()
    reaper.watched[PID](0)
    assert entry.phase is Phase.RUNNING
    with pytest.raises(RpcError, match="process one is not running"):
        table.find_running("one")
    with pytest.raises(RpcError, match="join one: no such process"):
        await table.start("exec")
    send_signal(entry, signal.SIGTERM)
    assert signals == []


@pytest.mark.parametrize("kind", ["network", "pid", "ipc"])
async def test_sharing_a_namespace_needs_a_running_process(
    nursery: trio.Nursery, launcher: FakeLauncher, kind: str
) -> None:
    table, _ = make_table(nursery)
    table.create(create_request())
    table.create(create_request(id="two", **{f"{kind}_of": "one"}))
    for _ in range(2):
        with pytest.raises(
            RpcError, match=f"the {kind} namespace of one cannot be joined: its process is not"
        ) as caught:
            await table.start("two")
        # Not the fault of the program: the appliance has Docker's words for it.
        assert (caught.value.code, caught.value.detail(process_pb2.StartFailure)) == (Code.FAILED_PRECONDITION, None)
    assert launcher.launches == 0


async def test_namespaces_reach_the_launcher(nursery: trio.Nursery, launcher: FakeLauncher) -> None:
    table, _ = make_table(nursery)
    table.create(create_request())
    entry = await table.start("one")
    entry.pid = os.getpid()
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    table.create(create_request(id="two", pid_of="one", ipc_of="one"))
    await table.start("two", own)
    os.close(own)
    kinds = ("net", "pid", "ipc")
    assert launcher.namespaces == [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    # The table has closed its descriptors.
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(launcher.given.pid)


async def test_the_output_ends_though_a_neighbour_holds_the_other_end(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, launcher: FakeLauncher
) -> None:
    """A process in the same pid namespace can open /proc/PID/fd/1."""
    launcher.output = b"last words"
    launcher.neighbours = 1
    table, reaper = make_table(nursery)
    table.create(create_request())
    entry = await table.start("one")
    await trio.testing.wait_all_tasks_blocked()
    reaper.watched[PID](0)
    start = trio.current_time()
    await entry.ended.wait()
    assert trio.current_time() - start == pytest.approx(2.0)
    assert b"".join(record.data for record in entry.spool.read(0)) == b"last words"
    launcher.close()


async def test_all_of_the_output_waits_for_its_acknowledgement(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, launcher: FakeLauncher
) -> None:
    launcher.output = bytes(4096)
    launcher.neighbours = 1
    table, reaper = make_table(nursery)
    table.create(create_request(spool_bytes=4096))
    entry = await table.start("one")
    await trio.testing.wait_all_tasks_blocked()
    launcher.write(b"last words")
    reaper.watched[PID](0)
    await trio.sleep(10)
    assert not entry.ended.is_set()
    entry.spool.acknowledge(4096)
    await entry.ended.wait()
    assert entry.spool.written == 4096 + len(b"last words")
    launcher.close()


async def test_ending_all_kills_what_does_not_end(
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    launcher: FakeLauncher,
    signals: list[tuple[int, int]],
    tmp_path: Path,
) -> None:
    table, reaper = make_table(nursery)
    table.create(create_request())
    await table.start("one")
    start = trio.current_time()
    await table.end_all(5.0)
    assert signals == [(PID, signal.SIGTERM)]
    assert (tmp_path / "container-1/cgroup.kill").read_text() == "1"
    assert trio.current_time() - start == pytest.approx(7.0)
    reaper.watched[PID](signal.SIGKILL)
    await table.find("one").ended.wait()
