"""Runs that an earlier vchd started and a later one takes over: execs, suspended machines, machines that do not answer."""

from pathlib import Path

import trio
import trio.testing

from appliance.container.exec_config import ExecConfig
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import Created, Exited
from appliance.errors import NotFound
from appliance.hypervisor.fake import Faults, VersatileMachine
from tests.appliance.engine.guest import Process
from tests.appliance.engine.harness import Host, engine, log_text


async def writer(process: Process) -> int:
    """Write a line for each signal but SIGTERM."""
    while await process.wait_signal() != 15:
        process.write("line\n")
    return 0


async def test_execs_of_an_earlier_daemon_do_not_block(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, writer=writer)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run()
        one = daemon.services.execs.create(container.id, ExecConfig(cmd=["writer"]))
        await daemon.services.execs.start(one.id)
    process = host.guest.process(one.id)
    async with engine(host, tmp_path) as daemon:
        process.signal(10)
        # Nobody is attached, but the guest need not store the output for ever.
        while process.spool.acknowledged < len("line\n"):
            await trio.testing.wait_all_tasks_blocked(0.002)
        process.signal(15)
        (vm,) = host.guest.vms.values()
        while one.id in vm.processes:
            await trio.testing.wait_all_tasks_blocked(0.002)
        # The new daemon does not know it, and the container runs on.
        assert daemon.services.execs.ids_of(container.id) == []
        assert daemon.registry.get(container.id).running


async def test_a_suspended_machine_is_waited_for(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, writer=writer)
    host.machine = VersatileMachine
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run("writer")
    host.vms.vms[container.id].set_placement(suspended=True)
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get(container.id)
        await daemon.until(found, lambda: found.paused)
        await daemon.services.signals.unpause(found.id)
        await daemon.until(found, lambda: found.running and not found.paused)
        # Its clock stood still.
        (vm,) = host.guest.vms.values()
        while not vm.awakened:
            await trio.testing.wait_all_tasks_blocked(0.002)
        host.guest.process(found.id).signal(10)
        while log_text(found) != "line\n":
            await found.log_news.wait()


async def test_a_machine_that_cannot_be_reached(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run()
    host.vms.faults = Faults(dial="the socket is gone")
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get(container.id)
        await daemon.ended(found)
        assert isinstance(found.state, Exited)
        assert (found.state.exit_code, found.state.error) == (137, "the socket is gone")
        assert host.vms.vms == {}
        assert found.endpoints == []
        host.vms.faults = Faults()
        await daemon.start(found)
        assert found.running


async def test_a_start_that_was_cut_off_can_be_cancelled(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery)
    host.guest.hold = trio.Event()
    async with engine(host, tmp_path) as daemon:
        container = await daemon.create()
        nursery.start_soon(daemon.start, container)
        await host.guest.held.wait()
    host.vms.faults = Faults(silent=True)
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get(container.id)
        # Even before the guest was asked.
        await daemon.stop(found)
        assert isinstance(found.state, Created)
        assert host.vms.vms == {}


async def test_auto_remove_of_an_earlier_daemon(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, writer=writer)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run("writer", host=HostConfig(auto_remove=True))
    host.guest.process(container.id).signal(15)
    async with engine(host, tmp_path) as daemon:
        try:
            found = daemon.registry.get(container.id)
        except NotFound:
            pass  # gone already
        else:
            await daemon.until(found, lambda: found.removed)
        assert daemon.registry.all() == []
        assert daemon.stored(container) is None
