"""A conversation with a scripted QEMU over a socket."""

import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from appliance.errors import HypervisorError
from appliance.hypervisor.qemu.monitor import Monitor


@asynccontextmanager
async def _scripted(folder: Path, answers: list[bytes]) -> AsyncIterator[tuple[Monitor, list[str]]]:
    """A monitor whose peer answers the n-th command with the n-th bytes; and the commands that the peer got."""
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await listener.bind(str(folder / "qmp.sock"))
    listener.listen(1)
    got: list[str] = []

    async def peer() -> None:
        connection, _ = await listener.accept()
        with connection:
            await connection.send(b'{"QMP": {"version": {}}}\n')
            buffer = b""
            for answer in (b'{"return": {}}\n', *answers):
                while b"\n" not in buffer:
                    buffer += await connection.recv(65536)
                line, _, buffer = buffer.partition(b"\n")
                got.append(json.loads(line)["execute"])
                await connection.send(answer)

    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer)
            async with Monitor.open(str(folder / "qmp.sock")) as monitor:
                yield monitor, got
            nursery.cancel_scope.cancel()


async def test_events_between_command_and_answer_are_kept(short_path: Path) -> None:
    answers = [b'{"event": "RESUME"}\n{"return": {"running": true}}\n']
    async with _scripted(short_path, answers) as (monitor, got):
        assert await monitor.execute("query-status") == {"running": True}
        with trio.fail_after(10):
            await monitor.wait_event("RESUME")
        assert got == ["qmp_capabilities", "query-status"]


async def test_a_refusal_has_qemus_words(short_path: Path) -> None:
    async with _scripted(short_path, [b'{"error": {"desc": "Bus full"}}\n']) as (monitor, _):
        with pytest.raises(HypervisorError, match=r"device_add: .*Bus full"):
            await monitor.execute("device_add")


async def test_the_end_of_qemu(short_path: Path) -> None:
    async with _scripted(short_path, []) as (monitor, _):
        with pytest.raises(HypervisorError, match=r"QEMU has ended|broke"):
            await monitor.execute("query-status")


async def test_nothing_listens(short_path: Path) -> None:
    with pytest.raises(HypervisorError, match="monitor cannot be reached"):
        async with Monitor.open(str(short_path / "none.sock")):
            pass


@pytest.mark.parametrize(
    ("answers", "result", "sent"),
    [
        ([b'{"return": {"running": true, "status": "running"}}\n'], False, 1),
        (
            [
                b'{"return": {"running": false, "status": "paused"}}\n',
                b'{"return": {}}\n',
                b'{"return": {"status": "active"}}\n',
                b'{"return": {"status": "cancelled"}}\n',
                b'{"return": {}}\n',
            ],
            True,
            5,
        ),
    ],
)
async def test_a_paused_machine_runs_again(short_path: Path, answers: list[bytes], result: bool, sent: int) -> None:
    async with _scripted(short_path, answers) as (monitor, got):
        assert await monitor.let_run() is result
        assert len(got) == 1 + sent


async def test_a_machine_that_never_ran_is_not_resumed(short_path: Path) -> None:
    async with _scripted(short_path, [b'{"return": {"running": false, "status": "inmigrate"}}\n']) as (monitor, _):
        with pytest.raises(HypervisorError, match="has not begun to run"):
            await monitor.let_run()


async def test_an_answer_of_another_type_is_refused(short_path: Path) -> None:
    async with _scripted(short_path, [b'{"return": 5}\n']) as (monitor, _):
        with pytest.raises(HypervisorError, match="unexpected answer"):
            await monitor.let_run()


async def _fails(act: Awaitable[object]) -> str:
    with pytest.raises(HypervisorError) as raised:
        await act
    return str(raised.value)


async def test_a_migration_that_fails_says_why(short_path: Path) -> None:
    done = b'{"return": {}}\n'
    failed = b'{"return": {"status": "failed", "error-desc": "No space left"}}\n'
    async with _scripted(short_path, [done, done, done, failed]) as (monitor, got):
        fd = os.open(short_path, os.O_PATH)
        try:
            assert await _fails(monitor.save(fd, 5)) == "QEMU could not save the machine: No space left"
        finally:
            os.close(fd)
        assert got[1:] == ["migrate-set-parameters", "getfd", "migrate", "query-migrate"]


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (b"", "to the connection"),
        (b'{"QMP": {"version": {}}}\n{"return": {}}\n', "query-status"),
    ],
)
async def test_a_qemu_that_hangs(short_path: Path, mock_clock: MockClock, said: bytes, what: str) -> None:
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await listener.bind(str(short_path / "qmp.sock"))
    listener.listen(1)

    async def ask(nursery: trio.Nursery) -> None:
        with pytest.raises(HypervisorError, match=f"^QEMU's monitor has not answered {what} in 60 s$"):
            async with Monitor.open(str(short_path / "qmp.sock")) as monitor:
                await monitor.execute("query-status")
        nursery.cancel_scope.cancel()

    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, nursery)
            connection, _ = await listener.accept()
            with connection:
                await connection.send(said)
                for _ in range(10):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    mock_clock.jump(20)
                raise AssertionError("the command waits for ever")
