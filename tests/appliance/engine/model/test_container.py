"""A container in memory: its state, its record, and what waits for their changes."""

from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.host_config import HostConfig, LogConfig
from appliance.container.lifecycle import (
    Created,
    Exit,
    Exited,
    GiveUp,
    Pause,
    Running,
    Start,
    Started,
    StartFailed,
    Starting,
    Unpause,
)
from appliance.engine.model.container import Container
from appliance.errors import Conflict


def make(folder: Path = Path("nowhere"), log: LogConfig | None = None, *, tty: bool = False) -> Container:
    host = HostConfig(log_config=log) if log is not None else HostConfig()
    record = ContainerRecord("ab" * 32, "web", 5, "sha256:1", "busybox", ContainerConfig(tty=tty), host)
    return Container(record, folder, Created())


def running() -> Container:
    container = make()
    container.move(Start())
    container.move(Started(100, 7))
    return container


def test_a_run_is_recorded() -> None:
    container = make()
    record = container.record
    record.exit_code, record.finished, record.oom_killed, record.error = 1, 50, True, "of an earlier run"
    container.move(Start())
    assert (container.state, container.running) == (Starting(), False)
    # A daemon that is killed now finds a container that was not started.
    assert record.state == "created"
    container.move(Started(100, 7))
    assert container.state == Running(100, 7)
    assert (record.state, record.started, record.finished) == ("running", 100, 0)
    assert (record.exit_code, record.oom_killed, record.error) == (0, False, "")
    container.move(Exit(200, 137, True, "lost", True))
    assert container.restarting
    assert (record.state, record.started, record.finished) == ("exited", 100, 200)
    assert (record.exit_code, record.oom_killed, record.error) == (137, True, "lost")


def test_a_start_that_failed_is_recorded() -> None:
    container = make()
    container.move(Start())
    container.move(StartFailed("no such file", 127, Created()))
    assert container.state == Created("no such file", 127)
    assert (container.record.state, container.record.error, container.record.exit_code) == (
        "created",
        "no such file",
        127,
    )


async def test_requests_wait_for_a_guest_of_an_earlier_daemon(autojump_clock: trio.testing.MockClock) -> None:
    container = running()
    await container.wait_recovered()
    assert trio.current_time() == 0
    container.begin_recovery()
    # A guest that does not answer.
    with pytest.raises(Conflict, match=f"^container {container.id} is not running$"):
        await container.require_run()
    assert trio.current_time() == 30
    # A request that comes later does not wait.
    await container.wait_recovered()
    assert trio.current_time() == 30


@pytest.mark.parametrize("event", [Exit(200, 0, False, "", False), None])
async def test_recovery_ends(event: Exit | None, autojump_clock: trio.testing.MockClock) -> None:
    container = running()
    container.begin_recovery()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(container.wait_recovered)
        await trio.sleep(1)
        if event is not None:
            container.move(event)
        else:
            container.end_recovery()
    assert trio.current_time() == 1


def test_a_pause_is_not_stored() -> None:
    container = running()
    container.move(Pause(container.id))
    assert (container.running, container.paused, container.record.state) == (True, True, "running")
    container.move(Unpause(container.id))
    assert (container.running, container.paused) == (True, False)


def test_an_illegal_event_changes_nothing() -> None:
    container = make()
    changed = container.changed
    with pytest.raises(Conflict):
        container.move(Pause(container.id))
    assert container.state == Created()
    assert container.record.state == "created"
    assert not changed.is_set()


def test_giving_up() -> None:
    container = running()
    container.move(Exit(200, 1, restarting=True))
    container.move(GiveUp())
    assert isinstance(container.state, Exited)
    assert not container.restarting


async def test_every_change_wakes_those_that_wait() -> None:
    container = make()
    seen: list[str] = []

    async def watch() -> None:
        while not isinstance(container.state, Exited):
            await container.changed.wait()
            seen.append(type(container.state).__name__)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for event in (Start(), Started(1, 1), Exit(2, 0)):
            await trio.testing.wait_all_tasks_blocked()
            container.move(event)
    assert seen == ["Starting", "Running", "Exited"]


async def test_news_of_the_log_are_not_changes_of_state() -> None:
    container = make()
    changed, news = container.changed, container.log_news
    container.notify_log()
    assert news.is_set()
    assert not changed.is_set()
    assert not container.log_news.is_set()


def test_what_the_restart_policy_knows() -> None:
    container = make()
    container.record.restarts, container.record.stopped_by_user, container.short_runs = 3, True, 2
    history = container.restart_history
    assert (history.restarts, history.short_runs, history.stopped_by_user) == (3, 2, True)


def test_networks_of_the_host() -> None:
    container = make()
    assert not container.on_host_network
    container.record.host_config.network_mode = "host"
    assert container.on_host_network


@pytest.mark.parametrize(("tty", "data"), [(False, b"\x01\0\0\0\0\0\0\x02hi"), (True, b"hi")])
def test_the_log_is_framed_without_a_terminal(tmp_path: Path, tty: bool, data: bytes) -> None:
    container = make(tmp_path, tty=tty)
    log = container.open_log()
    assert container.open_log() is log
    assert container.open_log_if_kept() is log
    log.append(1, 1, 2, b"hi")
    log.sync()
    log.close()
    assert b"".join(path.read_bytes() for path in sorted(tmp_path.glob("log*.data"))) == data


def test_a_driver_that_keeps_no_log(tmp_path: Path) -> None:
    container = make(tmp_path, LogConfig("none", {}))
    assert container.open_log_if_kept() is None
    assert list(tmp_path.iterdir()) == []


def test_where_the_disk_is(tmp_path: Path) -> None:
    assert make(tmp_path).upper == tmp_path / "upper.ext4"
