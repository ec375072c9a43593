"""`docker kill`, `stop`, `pause`, `unpause` and `resize` without VMs. The clock jumps over the patience of a stop."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.container.config import ContainerConfig
from appliance.container.lifecycle import Exited
from appliance.engine.model.container import Container
from appliance.errors import Conflict, InvalidParameter, NotFound, NotModified, VchError
from appliance.hypervisor.fake import VersatileMachine
from protos.tether.v1 import process_pb2
from tests.appliance.engine.guest import Process, sleeper
from tests.appliance.engine.harness import Engine, Host, engine, log_text

Clock = trio.testing.MockClock


async def talker(process: Process) -> int:
    """Repeat each signal's number, and end never."""
    while True:
        process.write(f"{await process.wait_signal()}\n")


async def deaf(_: Process) -> int:
    await trio.sleep_forever()
    return 0


@pytest.fixture
async def host(nursery: trio.Nursery, mock_clock: Clock) -> Host:
    mock_clock.rate = 1
    return Host(nursery, talker=talker, deaf=deaf, sleeper=sleeper)


@pytest.fixture
async def daemon(host: Host, tmp_path: Path) -> AsyncIterator[Engine]:
    async with engine(host, tmp_path) as running:
        yield running


async def logged(container: Container, text: str) -> None:
    while log_text(container) != text:
        await container.log_news.wait()


def exit_code(container: Container) -> int:
    assert isinstance(container.state, Exited)
    return container.state.exit_code


# -- kill -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal", "number"), [("SIGUSR1", 10), ("usr1", 10), ("10", 10), ("HUP", 1), ("SIGRTMIN+3", 37), ("TERM", 15)]
)
async def test_a_signal_reaches_the_process(daemon: Engine, signal: str, number: int) -> None:
    container = await daemon.run("talker", name="web")
    await daemon.services.signals.kill("web", signal)
    await logged(container, f"{number}\n")
    assert daemon.attributes(container, "kill")["signal"] == str(number)
    assert container.running


async def test_kill_returns_after_the_end(daemon: Engine) -> None:
    container = await daemon.run("deaf")
    await daemon.services.signals.kill(container.id, "")
    assert exit_code(container) == 137
    assert daemon.attributes(container, "kill")["signal"] == "9"
    # The client may start it again at once.
    await daemon.start(container)
    assert container.running


@pytest.mark.parametrize("signal", ["FOO", "0", "65", "-1", "SIG"])
async def test_unknown_signals(daemon: Engine, signal: str) -> None:
    container = await daemon.run()
    with pytest.raises(InvalidParameter, match=f"^invalid signal: {signal}$"):
        await daemon.services.signals.kill(container.id, signal)
    assert "kill" not in daemon.events(container)


async def test_only_a_running_container_is_killed(daemon: Engine) -> None:
    container = await daemon.create(name="web")
    text = f"^cannot kill container: web: container {container.id} is not running$"
    with pytest.raises(Conflict, match=text):
        await daemon.services.signals.kill("web", "KILL")
    await daemon.start(container)
    await daemon.stop(container)
    with pytest.raises(Conflict, match=text):
        await daemon.services.signals.kill("web", "TERM")
    with pytest.raises(NotFound, match=r"^No such container: other$"):
        await daemon.services.signals.kill("other", "KILL")


async def test_a_guest_that_takes_no_signals(daemon: Engine, host: Host) -> None:
    host.guest.broken = {"signal"}
    container = await daemon.run()
    with pytest.raises(VchError, match="the guest is broken"):
        await daemon.services.signals.kill(container.id, "TERM")
    assert container.running
    assert ("kill", container.id) not in host.vms.journal
    # SIGKILL always succeeds: the machine ends.
    await daemon.services.signals.kill(container.id, "KILL")
    assert exit_code(container) == 137
    assert ("kill", container.id) in host.vms.journal


async def test_the_stop_signal_wakes_a_paused_container(daemon: Engine) -> None:
    container = await daemon.run()
    await daemon.services.signals.pause(container.id)
    await daemon.services.signals.kill(container.id, "TERM")
    await daemon.ended(container)
    assert exit_code(container) == 0
    assert daemon.events(container)[2:] == ["pause", "kill", "unpause", "die"]


async def test_another_signal_leaves_it_paused(daemon: Engine) -> None:
    container = await daemon.run()
    await daemon.services.signals.pause(container.id)
    await daemon.services.signals.kill(container.id, "USR1")
    assert container.paused


# -- stop -----------------------------------------------------------------------------------------------------------------


async def stops(daemon: Engine, container: Container, clock: Clock, seconds: float, timeout: float | None) -> None:
    """Check that a stop kills a process that does not listen after this many seconds and not before."""
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await daemon.services.signals.stop(container.id, signal="", timeout=timeout)

        nursery.start_soon(stop)
        await daemon.emitted(container, "kill")
        await trio.testing.wait_all_tasks_blocked(0.02)
        clock.jump(seconds - 1)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert container.running
        clock.jump(1)
    assert exit_code(container) == 137


@pytest.mark.parametrize(
    ("configured", "timeout", "seconds"), [(None, None, 10), (3, None, 3), (3, 5, 5)], ids=["default", "config", "call"]
)
async def test_the_patience_of_a_stop(
    daemon: Engine, mock_clock: Clock, configured: int | None, timeout: float | None, seconds: float
) -> None:
    container = await daemon.create("deaf", config=ContainerConfig(stop_timeout=configured))
    await daemon.start(container)
    await stops(daemon, container, mock_clock, seconds, timeout)


async def test_a_stop_without_an_end_to_its_patience(daemon: Engine, host: Host, mock_clock: Clock) -> None:
    container = await daemon.run("deaf")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.stop, container, -1)
        await daemon.emitted(container, "kill")
        await trio.testing.wait_all_tasks_blocked(0.02)
        mock_clock.jump(86400)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert container.running
        (vm,) = host.guest.vms.values()
        vm.scopes[container.id].cancel()
    assert exit_code(container) == 137
    # It was not killed a second time.
    assert daemon.events(container).count("kill") == 1


async def test_the_signal_of_a_stop(daemon: Engine, host: Host) -> None:
    got: list[int] = []

    async def server(process: Process) -> int:
        got.append(await process.wait_signal())
        return 0

    host.guest.programs["server"] = server
    container = await daemon.create("server", config=ContainerConfig(stop_signal="SIGUSR2"))
    for signal in ("", "HUP"):
        await daemon.start(container)
        await daemon.services.signals.stop(container.id, signal=signal, timeout=5)
    assert got == [12, 1]


async def test_a_paused_container_stops(daemon: Engine) -> None:
    container = await daemon.run()
    await daemon.services.signals.pause(container.id)
    await daemon.stop(container)
    assert exit_code(container) == 0


async def test_a_guest_that_never_answers_is_powered_off(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    host.guest.broken = {"signal"}
    await daemon.services.signals.stop(container.id, signal="KILL", timeout=0)
    assert exit_code(container) == 137
    assert ("kill", container.id) in host.vms.journal


async def test_nothing_to_stop(daemon: Engine) -> None:
    container = await daemon.create()
    with pytest.raises(NotModified, match=r"^container is already stopped$"):
        await daemon.stop(container)


# -- pause ----------------------------------------------------------------------------------------------------------------


async def test_pauses_that_do_not_fit(daemon: Engine) -> None:
    signals = daemon.services.signals
    container = await daemon.create(name="web")
    with pytest.raises(Conflict, match=f"^container {container.id} is not running$"):
        await signals.pause("web")
    with pytest.raises(VchError, match=f"^Container {container.id} is not paused$"):
        await signals.unpause("web")
    await daemon.start(container)
    with pytest.raises(VchError, match=f"^Container {container.id} is not paused$"):
        await signals.unpause("web")
    await signals.pause("web")
    with pytest.raises(Conflict, match=f"^Container {container.id} is already paused$"):
        await signals.pause("web")
    assert daemon.events(container) == ["create", "start", "pause"]


async def test_an_unpause_that_fails(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    await daemon.services.signals.pause(container.id)
    host.guest.broken = {"resume"}
    with pytest.raises(VchError, match="the guest is broken"):
        await daemon.services.signals.unpause(container.id)
    assert container.paused
    host.guest.broken = set()
    await daemon.services.signals.unpause(container.id)
    assert not container.paused


@pytest.fixture
async def suspending(host: Host, tmp_path: Path) -> AsyncIterator[Engine]:
    """A daemon whose pauses suspend the machine."""
    host.machine = VersatileMachine
    async with engine(host, tmp_path, pause_by="suspend") as daemon:
        yield daemon


async def test_a_pause_may_suspend_the_machine(suspending: Engine, host: Host) -> None:
    container = await suspending.run()
    await suspending.services.signals.pause(container.id)
    assert host.vms.vms[container.id].placement.suspended
    # Its processes need not be frozen, too.
    assert not host.guest.process(container.id).paused
    await suspending.services.signals.unpause(container.id)
    assert not host.vms.vms[container.id].placement.suspended
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert not container.paused
    assert suspending.events(container)[2:] == ["pause", "unpause"]


async def test_a_suspended_machine_is_killed(suspending: Engine, host: Host) -> None:
    container = await suspending.run()
    await suspending.services.signals.pause(container.id)
    await suspending.services.signals.kill(container.id, "KILL")
    assert exit_code(container) == 137
    # The machine was killed: its guest would take a signal only later.
    assert ("kill", container.id) in host.vms.journal


async def test_a_suspended_container_stops(suspending: Engine, host: Host) -> None:
    container = await suspending.run()
    await suspending.services.signals.pause(container.id)
    await suspending.stop(container)
    assert exit_code(container) == 0


# -- resize ---------------------------------------------------------------------------------------------------------------


async def test_resize(daemon: Engine, host: Host) -> None:
    container = await daemon.create(config=ContainerConfig(tty=True))
    with pytest.raises(Conflict, match=f"^container {container.id} is not running$"):
        await daemon.services.signals.resize(container.id, 24, 80)
    await daemon.start(container)
    await daemon.services.signals.resize(container.id, 24, 80)
    assert host.guest.requests == [process_pb2.ResizePtyRequest(id=container.id, rows=24, columns=80)]
    attributes = daemon.attributes(container, "resize")
    assert (attributes["height"], attributes["width"]) == ("24", "80")
