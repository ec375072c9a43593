"""A vchd that was killed at any step: the next one finds, finishes or undoes what it left."""

from pathlib import Path

import pytest
import trio

from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.host_config import HostConfig, RestartPolicy
from appliance.container.lifecycle import Created, Exited, Running
from appliance.engine.containers.recovery import targets_first
from appliance.engine.model.container import Container
from appliance.hypervisor import MachineSpec
from tests.appliance.engine.guest import Process
from tests.appliance.engine.harness import Host, engine, log_text


async def talker(process: Process) -> int:
    """Repeat each signal's number; SIGTERM ends it."""
    process.write("ready\n")
    while (number := await process.wait_signal()) != 15:
        process.write(f"{number}\n")
    return 7


async def test_a_running_container_is_taken_over(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, talker=talker)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run("talker", name="web")
        while log_text(container) != "ready\n":
            await container.log_news.wait()
    # While no daemon is there, the process goes on.
    host.guest.process(container.id).signal(10)
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get("web")
        assert found is not container
        assert isinstance(found.state, Running)
        while log_text(found) != "ready\n10\n":
            await found.log_news.wait()
        await daemon.stop(found)
        assert isinstance(found.state, Exited)
        assert found.state.exit_code == 7
        assert [machine for action, machine in host.vms.journal if action == "start"] == [container.id]


async def test_an_exit_while_no_daemon_was_there(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, talker=talker)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run("talker")
    host.guest.process(container.id).signal(15)
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get(container.id)
        await daemon.until(found, lambda: not found.running)
        assert isinstance(found.state, Exited)
        assert found.state.exit_code == 7
        assert log_text(found) == "ready\n"


async def test_a_machine_that_went_away_meanwhile(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run()
        again = await daemon.run(host=HostConfig(restart_policy=RestartPolicy("always", 0)))
    for machine in list(host.vms.vms):
        host.power_off(machine)
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get(container.id)
        assert isinstance(found.state, Exited)
        assert found.state.exit_code == 137
        assert found.endpoints == []
        restarted = daemon.registry.get(again.id)
        await daemon.until(restarted, lambda: restarted.running)


async def test_unless_stopped_remembers_the_stop(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery)
    policy = HostConfig(restart_policy=RestartPolicy("unless-stopped", 0))
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run(host=policy)
        await daemon.stop(container)
        await daemon.machine_gone(container)
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get(container.id)
        assert isinstance(found.state, Exited)
        assert not found.restarting


async def test_a_paused_container_stays_paused(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run()
        await daemon.services.signals.pause(container.id)
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get(container.id)
        await daemon.until(found, lambda: found.paused)
        await daemon.services.signals.unpause(found.id)
        assert not host.guest.process(found.id).paused


async def test_an_end_that_was_cut_off_before_its_machine_was_gone(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, talker=talker)
    policy = HostConfig(restart_policy=RestartPolicy("unless-stopped", 0))
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run("talker", host=policy)
        await daemon.stop(container)
        assert container.id in host.vms.vms
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get(container.id)
        # The end is stored: only the machine has to go.
        await daemon.until(found, lambda: found.run is not None)
        await daemon.machine_gone(found)
        assert host.vms.vms == {}
        await daemon.until(found, lambda: isinstance(found.state, Exited))
        assert isinstance(found.state, Exited)
        assert (found.state.exit_code, found.restarting, found.exits) == (7, False, 0)
        assert daemon.events(found) == []
        assert log_text(found) == "ready\n"


async def test_a_start_that_was_cut_off_before_its_process(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery)
    host.guest.hold = trio.Event()
    async with engine(host, tmp_path) as daemon:
        container = await daemon.create()
        nursery.start_soon(daemon.start, container)
        await host.guest.held.wait()
    host.guest.hold = None
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get(container.id)
        await daemon.until(found, lambda: isinstance(found.state, Created))
        assert found.endpoints == []
        await daemon.start(found)
        assert found.running


async def test_a_start_that_was_cut_off_behind_its_process(tmp_path: Path, nursery: trio.Nursery) -> None:
    """The process runs, but the record of the start was lost: the container is found running."""
    host = Host(nursery)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run()
        # What a vchd leaves that was killed before its second write.
        container.record.state, container.record.started = "created", 0
        await daemon.save(container)
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get(container.id)
        await daemon.until(found, lambda: found.running)
        assert host.guest.launched == [container.id]


async def test_machines_and_folders_without_a_record(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.create()
    stranger = await host.driver().create(MachineSpec("a" * 64, 256, 1))
    await stranger.start()
    folder = tmp_path / "data/containers" / ("b" * 64)
    folder.mkdir()
    async with engine(host, tmp_path) as daemon:
        assert [one.id for one in daemon.registry.all()] == [container.id]
        assert host.vms.vms == {}
        assert not folder.exists()


async def test_a_removal_that_was_cut_off(tmp_path: Path, nursery: trio.Nursery) -> None:
    """The folder went, the record stayed: the container is gone."""
    host = Host(nursery)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.create()
    container.folder.rmdir()
    async with engine(host, tmp_path) as daemon:
        assert daemon.registry.all() == []
    async with engine(host, tmp_path) as daemon:
        assert daemon.registry.all() == []


@pytest.mark.parametrize("running", [True, False])
async def test_addresses_are_not_given_twice(tmp_path: Path, nursery: trio.Nursery, running: bool) -> None:
    host = Host(nursery)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run()
        address = container.endpoints[0].ipv4
        assert address is not None
    if not running:
        host.power_off(container.id)
    async with engine(host, tmp_path) as daemon:
        other = await daemon.run()
        assert other.endpoints[0].ipv4 is not None
        assert (other.endpoints[0].ipv4.address != address.address) is running


def test_each_container_follows_those_whose_namespaces_it_joins() -> None:
    def named(name: str, target: str = "") -> Container:
        host_config = HostConfig(pid_mode=f"container:{target}" if target else "")
        return Container(
            ContainerRecord(name * 64, name, 1, "", "", ContainerConfig(), host_config), Path(name), Created()
        )

    last, middle, first = named("c", "b" * 64), named("b", "a"), named("a")
    assert targets_first([last, middle, first]) == [first, middle, last]
    assert targets_first([last]) == [last]
    # No client can make these.
    one, other = named("d", "e"), named("e", "d")
    assert set(map(id, targets_first([one, other]))) == {id(one), id(other)}
