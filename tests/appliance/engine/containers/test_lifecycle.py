"""A container's life without VMs: start, output, exit, stop, kill, removal, and failures of each."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from appliance.container.config import ContainerConfig
from appliance.container.lifecycle import Created, Exited, Running
from appliance.errors import Conflict, HypervisorError, InvalidParameter, NotFound, NotModified, Unavailable
from appliance.hypervisor.fake import FakeMachine, Faults
from protos.tether.v1 import process_pb2
from tests.appliance.engine.guest import Process, echo
from tests.appliance.engine.harness import Engine, Host, engine, log_text


@pytest.fixture
async def host(nursery: trio.Nursery) -> Host:
    return Host(nursery, echo=echo)


@pytest.fixture
async def daemon(host: Host, tmp_path: Path) -> AsyncIterator[Engine]:
    with trio.fail_after(60):
        async with engine(host, tmp_path) as running:
            yield running


async def test_a_process_runs_prints_and_ends(daemon: Engine, host: Host) -> None:
    container = await daemon.run("echo", "hello")
    await daemon.ended(container)
    assert isinstance(container.state, Exited)
    assert container.state.exit_code == 0
    assert log_text(container) == "hello\n"
    assert daemon.events(container) == ["create", "start", "die"]
    assert container.run is not None
    await container.run.gone.wait()
    assert host.vms.journal == [("create", container.id), ("start", container.id), ("destroy", container.id)]


async def test_a_program_that_does_not_exist(daemon: Engine, host: Host) -> None:
    failure = process_pb2.StartFailure(kind=process_pb2.StartFailure.NOT_FOUND, subject="nothing", searched_path=True)
    host.guest.refusals["nothing"] = failure
    container = await daemon.create("nothing")
    with pytest.raises(InvalidParameter, match=r'exec: "nothing": executable file not found in \$PATH'):
        await daemon.start(container)
    assert isinstance(container.state, Created)
    assert container.state.exit_code == 127
    assert daemon.events(container) == ["create", "die"]
    assert container.endpoints == []
    assert container.id not in host.vms.vms
    # The container can still be started once the program is there.
    del host.guest.refusals["nothing"]
    await daemon.start(container)
    assert container.running


@pytest.mark.parametrize(
    "faults",
    [Faults(create="no memory"), Faults(start="no memory"), Faults(dial="no memory")],
    ids=["create", "start", "dial"],
)
async def test_a_hypervisor_that_fails(daemon: Engine, host: Host, faults: Faults) -> None:
    host.vms.faults = faults
    container = await daemon.create()
    with pytest.raises(HypervisorError, match="no memory"):
        await daemon.start(container)
    assert isinstance(container.state, Created)
    assert container.state.error == "no memory"
    assert container.endpoints == []
    assert host.vms.vms == {}
    host.vms.faults = Faults()
    await daemon.start(container)
    assert isinstance(container.state, Running)


async def test_the_error_of_a_guest_that_fails_has_the_console(
    daemon: Engine, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeMachine, "last_words", lambda _: "console.log: kernel panic")
    host.guest.broken = {"launch"}
    container = await daemon.create()
    with pytest.raises(Unavailable, match=r"guest: .*\nconsole\.log: kernel panic$"):
        await daemon.start(container)
    assert isinstance(container.state, Created)
    assert container.state.error.endswith("console.log: kernel panic")
    host.guest.broken = set()
    await daemon.start(container)
    assert isinstance(container.state, Running)


async def test_a_machine_that_dies_before_the_process_runs(daemon: Engine, host: Host) -> None:
    host.guest.hold = trio.Event()
    container = await daemon.create()
    async with trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(HypervisorError, match="the machine ended by itself"):
                await daemon.start(container)

        nursery.start_soon(start)
        await host.guest.held.wait()
        host.power_off(container.id)
    assert isinstance(container.state, Created)


async def test_a_machine_that_dies_under_its_process(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    host.power_off(container.id)
    await daemon.ended(container)
    assert isinstance(container.state, Exited)
    assert container.state.exit_code == 137
    assert "the machine ended by itself" in container.state.error
    assert daemon.events(container)[-1] == "die"


@pytest.mark.parametrize("how", ["stop", "kill", "remove"])
async def test_a_start_is_cancelled(daemon: Engine, host: Host, how: str) -> None:
    host.guest.hold = trio.Event()
    container = await daemon.create()
    async with trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(Conflict, match="was cancelled"):
                await daemon.start(container)

        nursery.start_soon(start)
        await host.guest.held.wait()
        match how:
            case "stop":
                await daemon.stop(container)
            case "kill":
                await daemon.services.signals.kill(container.id, "KILL")
            case _:
                await daemon.remove(container, force=True)
    assert host.vms.vms == {}
    assert container.endpoints == []
    assert not container.running
    assert container.removed == (how == "remove")


async def test_a_client_that_leaves_does_not_cancel_the_start(daemon: Engine, host: Host) -> None:
    host.guest.hold = trio.Event()
    container = await daemon.create()
    with trio.CancelScope() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.start, container)
            await host.guest.held.wait()
            client.cancel()
            host.guest.hold.set()
    await daemon.until(container, lambda: container.running)


async def test_a_second_start_is_not_a_change(daemon: Engine) -> None:
    container = await daemon.run()
    with pytest.raises(NotModified):
        await daemon.start(container)
    await daemon.stop(container)
    with pytest.raises(NotModified):
        await daemon.stop(container)


async def test_stop_sends_the_stop_signal_and_waits(daemon: Engine, host: Host) -> None:
    got: list[int] = []

    async def server(process: Process) -> int:
        got.append(await process.wait_signal())
        process.write("bye\n")
        return 3

    host.guest.programs["server"] = server
    container = await daemon.create("server", config=ContainerConfig(stop_signal="SIGUSR1"))
    await daemon.start(container)
    await daemon.stop(container)
    assert got == [10]
    assert isinstance(container.state, Exited)
    assert container.state.exit_code == 3
    assert log_text(container) == "bye\n"
    actions = daemon.events(container)[2:]
    assert (actions[-1], sorted(actions)) == ("stop", ["die", "kill", "stop"])


async def test_stop_kills_a_process_that_ignores_its_signal(daemon: Engine, host: Host) -> None:
    async def deaf(_: Process) -> int:
        await trio.sleep_forever()
        return 0

    host.guest.programs["deaf"] = deaf
    container = await daemon.run("deaf")
    await daemon.stop(container, seconds=0)
    assert isinstance(container.state, Exited)
    assert container.state.exit_code == 137
    actions = daemon.events(container)[2:]
    # As with Docker, the end may be announced before the second kill.
    assert (actions[0], actions[-1], sorted(actions)) == ("kill", "stop", ["die", "kill", "kill", "stop"])


async def test_a_container_starts_again_with_its_log(daemon: Engine, host: Host) -> None:
    container = await daemon.run("echo", "once")
    await daemon.ended(container)
    await daemon.start(container)
    await daemon.ended(container, 2)
    assert log_text(container) == "once\nonce\n"
    assert [action for action, machine in host.vms.journal if machine == container.id].count("create") == 2


async def test_pause_and_unpause(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    await daemon.services.signals.pause(container.id)
    assert container.paused
    assert host.guest.process(container.id).paused
    with pytest.raises(Conflict, match="paused"):
        daemon.services.containers.attached(container.id)
    await daemon.services.signals.unpause(container.id)
    assert not container.paused
    assert not host.guest.process(container.id).paused
    assert daemon.events(container)[2:] == ["pause", "unpause"]


async def test_names(daemon: Engine) -> None:
    first = await daemon.create(name="web")
    with pytest.raises(Conflict, match='The container name "/web" is already in use'):
        await daemon.create(name="web")
    await daemon.services.containers.rename("web", "old")
    second = await daemon.create(name="web")
    assert daemon.registry.get("old") is first
    assert daemon.registry.get("/web") is second
    assert daemon.registry.get(first.id[:12]) is first
    await daemon.remove(first)
    with pytest.raises(NotFound, match="No such container: old"):
        daemon.registry.get("old")


async def test_a_wait_that_is_there_first_sees_the_exit(daemon: Engine, host: Host) -> None:
    container = await daemon.create("echo", "x")
    _, over = daemon.services.containers.wait(container.id, "next-exit")
    assert not over()
    await daemon.start(container)
    await daemon.until(container, over)
    assert isinstance(container.state, Exited)
    with pytest.raises(InvalidParameter, match='invalid condition: "sometime"'):
        daemon.services.containers.wait(container.id, "sometime")
