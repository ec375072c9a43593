"""Runs that an earlier vchd started and a later one takes over: execs, suspended machines, machines that do not answer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.container.exec_config import ExecConfig
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import Created, Exited
from appliance.engine.containers.execs import Exec
from appliance.errors import Conflict, NotFound
from appliance.hypervisor.fake import Faults, VersatileMachine
from tests.appliance.engine.guest import Process, echo
from tests.appliance.engine.harness import Engine, Host, engine, log_text


async def writer(process: Process) -> int:
    """Write a line for each signal but SIGTERM."""
    while await process.wait_signal() != 15:
        process.write("line\n")
    return 0


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.002)


async def _output_of(daemon: Engine, one: Exec) -> str:
    """Start an exec and return what it prints."""
    attachment = one.fanout.attach(frozenset({1, 2}))
    await daemon.services.execs.start(one.id)
    return b"".join([data async for _, data in attachment.output()]).decode()


async def test_requests_wait_until_a_new_daemon_has_reached_the_guest(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, writer=writer, echo=echo)
    async with engine(host, tmp_path) as daemon:
        await daemon.run("writer", name="web")
    async with engine(host, tmp_path) as daemon:
        assert daemon.registry.get("web").run is None, "this test has come too late"
        one = await daemon.services.execs.create("web", ExecConfig(cmd=["echo", "x"], attach_stdout=True))
        assert await _output_of(daemon, one) == "x\n"
    async with engine(host, tmp_path) as daemon:
        await daemon.services.signals.pause("web")
        assert daemon.registry.get("web").paused


async def test_an_exec_of_an_earlier_daemon_is_known_with_its_output(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, writer=writer, echo=echo)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run()
        config = ExecConfig(cmd=["writer"], attach_stdout=True)
        one = await daemon.services.execs.create(container.id, config)
        waiting = await daemon.services.execs.create(container.id, ExecConfig(cmd=["echo", "x"]))
        ended = await daemon.services.execs.create(container.id, ExecConfig(cmd=["echo", "x"]))
        await daemon.services.execs.start(one.id)
        await _output_of(daemon, ended)
    process = host.guest.process(one.id)
    # The output of the time without a daemon is not lost.
    process.signal(10)
    async with engine(host, tmp_path) as daemon:
        execs = daemon.services.execs
        found = execs.get(one.id)
        assert (found.config, found.running, found.exit_code) == (config, True, None)
        assert (execs.get(ended.id).running, execs.get(ended.id).exit_code) == (False, 0)
        await _until(lambda: found.takeover is not None)
        assert await _output_of(daemon, execs.get(waiting.id)) == "x\n"
        # Without a client that attaches, this is a second start.
        with pytest.raises(Conflict, match="is already running"):
            await execs.start(one.id)
        async with trio.open_nursery() as client:
            attachment = found.fanout.attach(frozenset({1}))
            await execs.start(one.id)
            output = attachment.output()
            assert (await anext(output))[1] == b"line\n"
            with pytest.raises(Conflict, match="is already running"):
                await execs.start(one.id)
            process.signal(15)
            assert [data async for data in output] == []
            client.cancel_scope.cancel()
        assert (found.running, found.exit_code) == (False, 0)
        (vm,) = host.guest.vms.values()
        await _until(lambda: one.id not in vm.processes)
        assert daemon.registry.get(container.id).running
        await daemon.stop(daemon.registry.get(container.id))
        await _until(lambda: daemon.database.load("exec") == {})


async def test_the_output_of_an_exec_that_ended_without_a_daemon(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, writer=writer)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run()
        one = await daemon.services.execs.create(container.id, ExecConfig(cmd=["writer"], attach_stdout=True))
        await daemon.services.execs.start(one.id)
    process = host.guest.process(one.id)
    process.signal(10)
    process.signal(15)
    async with engine(host, tmp_path) as daemon:
        found = daemon.services.execs.get(one.id)
        await _until(lambda: found.exit_code == 0)
        assert await _output_of(daemon, found) == "line\n"
        (vm,) = host.guest.vms.values()
        await _until(lambda: one.id not in vm.processes)


async def test_an_exec_without_a_record(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Version 0.1 stored no execs."""
    host = Host(nursery, writer=writer)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run()
        one = await daemon.services.execs.create(container.id, ExecConfig(cmd=["writer"]))
        await daemon.services.execs.start(one.id)
        await daemon.database.remove("exec", one.id)
    host.guest.process(one.id).signal(10)
    async with engine(host, tmp_path) as daemon:
        await _until(lambda: daemon.services.execs.ids_of(container.id) == [one.id])
        host.guest.process(one.id).signal(15)
        assert await _output_of(daemon, daemon.services.execs.get(one.id)) == "line\n"


async def test_execs_of_a_container_that_ended_without_a_daemon(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, writer=writer)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run()
        one = await daemon.services.execs.create(container.id, ExecConfig(cmd=["writer"]))
    host.power_off(container.id)
    async with engine(host, tmp_path) as daemon:
        with pytest.raises(NotFound):
            daemon.services.execs.get(one.id)
        await _until(lambda: daemon.database.load("exec") == {})


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
