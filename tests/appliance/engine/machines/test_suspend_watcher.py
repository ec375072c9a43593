"""Machines that an operator suspends, resumes, renames or moves: the container follows."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.container.lifecycle import Exited
from appliance.engine.machines.suspend_watcher import suspended_machine
from appliance.engine.model.container import Container
from appliance.hypervisor.fake import FakeMachine, FakeVm, VersatileMachine
from tests.appliance.engine.harness import Engine, Host, engine


@pytest.fixture
async def host(nursery: trio.Nursery) -> Host:
    host = Host(nursery)
    host.machine = VersatileMachine
    return host


@pytest.fixture
async def daemon(host: Host, tmp_path: Path) -> AsyncIterator[Engine]:
    with trio.fail_after(60):
        async with engine(host, tmp_path) as running:
            yield running


def _vm(host: Host, container: Container) -> FakeVm:
    return host.vms.vms[container.id]


async def _seen(daemon: Engine, container: Container, action: str) -> dict[str, str]:
    """Wait for an event of the container; its attributes."""
    with daemon.bus.watch() as events:
        for event in daemon.bus.past(0):
            if (event.action, event.id) == (action, container.id):
                return event.attributes
        async for event in events:
            if (event.action, event.id) == (action, container.id):
                return event.attributes
    raise AssertionError("the bus ended")


async def test_a_suspended_machine_pauses_its_container(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    assert suspended_machine(container) is None
    _vm(host, container).set_placement(suspended=True)
    await daemon.until(container, lambda: container.paused)
    found = suspended_machine(container)
    assert found is not None
    assert found.placement.suspended
    _vm(host, container).set_placement(suspended=False)
    await daemon.until(container, lambda: not container.paused)
    assert suspended_machine(container) is None
    assert daemon.events(container)[2:] == ["pause", "unpause"]
    # The guest's clock stood still.
    assert host.guest.vm_of(container.id).awakened[-1].wall_clock_ns > 0


async def test_a_container_that_was_paused_before_stays_paused(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    await daemon.services.signals.pause(container.id)
    vm = _vm(host, container)
    vm.set_placement(suspended=True)
    await trio.testing.wait_all_tasks_blocked()
    vm.set_placement(suspended=False)
    while not host.guest.vm_of(container.id).awakened:
        await trio.lowlevel.checkpoint()
    vm.set_placement(name="renamed")
    await _seen(daemon, container, "machine-rename")
    assert container.paused
    assert daemon.events(container)[2:] == ["pause", "machine-rename"]


async def test_unpause_resumes_a_suspended_machine(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    _vm(host, container).set_placement(suspended=True)
    await daemon.until(container, lambda: container.paused)
    await daemon.services.signals.unpause(container.id)
    assert not _vm(host, container).placement.suspended
    await daemon.until(container, lambda: not container.paused)


async def test_a_renamed_machine(daemon: Engine, host: Host) -> None:
    container = await daemon.run(name="web")
    _vm(host, container).set_placement(name="operator's name")
    attributes = await _seen(daemon, container, "machine-rename")
    assert (attributes["machineName"], attributes["oldMachineName"]) == ("operator's name", "web")
    assert container.record.name == "web"


async def test_a_machine_on_another_host(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    _vm(host, container).set_placement(host="host-2")
    attributes = await _seen(daemon, container, "migrate")
    assert (attributes["oldHost"], attributes["host"]) == ("host-1.fake", "host-2.fake")


async def test_fields_that_the_hypervisor_does_not_know_are_no_news(daemon: Engine, host: Host) -> None:
    container = await daemon.run(name="web")
    vm = _vm(host, container)
    vm.set_placement(name="", host="")
    await trio.testing.wait_all_tasks_blocked()
    vm.set_placement(name="web", host="host-1")
    await trio.testing.wait_all_tasks_blocked()
    vm.set_placement(host="host-2")
    await _seen(daemon, container, "migrate")
    assert daemon.events(container)[2:] == ["migrate"]


async def test_a_machine_that_ends_while_suspended(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    _vm(host, container).set_placement(suspended=True)
    await daemon.until(container, lambda: container.paused)
    host.power_off(container.id)
    await daemon.ended(container)
    assert isinstance(container.state, Exited)
    assert not container.paused
    assert suspended_machine(container) is None


async def test_machines_suspended_while_no_daemon_was_there(host: Host, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with engine(host, tmp_path) as daemon:
            container = await daemon.run()
        _vm(host, container).set_placement(suspended=True)
        async with engine(host, tmp_path) as daemon:
            found = daemon.registry.get(container.id)
            await daemon.until(found, lambda: found.paused)
            _vm(host, container).set_placement(suspended=False)
            await daemon.until(found, lambda: found.running and not found.paused)


async def test_a_hypervisor_that_cannot_suspend(host: Host, tmp_path: Path) -> None:
    host.machine = FakeMachine
    with trio.fail_after(60):
        async with engine(host, tmp_path) as daemon:
            container = await daemon.run()
            _vm(host, container).set_placement(suspended=True)
            await trio.testing.wait_all_tasks_blocked()
            assert not container.paused
            assert suspended_machine(container) is None
