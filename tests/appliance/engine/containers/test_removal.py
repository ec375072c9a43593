"""Removals that meet starts, ends and each other."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.container.host_config import HostConfig
from appliance.errors import Conflict, NotFound
from tests.appliance.engine.guest import echo
from tests.appliance.engine.harness import Engine, Host, engine


@pytest.fixture
async def host(nursery: trio.Nursery) -> Host:
    return Host(nursery, echo=echo)


@pytest.fixture
async def daemon(host: Host, tmp_path: Path) -> AsyncIterator[Engine]:
    with trio.fail_after(60):
        async with engine(host, tmp_path) as running:
            yield running


async def test_a_running_container_is_not_removed(daemon: Engine) -> None:
    container = await daemon.run(name="web")
    with pytest.raises(Conflict, match="container is running: stop the container before removing or force remove"):
        await daemon.remove(container)
    assert container.running


async def test_force_removes_a_running_container(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    await daemon.remove(container, force=True)
    assert container.removed
    assert host.vms.vms == {}
    actions = daemon.events(container)
    # As with Docker, the end may be announced before the kill that caused it.
    assert (actions[:2], sorted(actions[2:4]), actions[4:]) == (["create", "start"], ["die", "kill"], ["destroy"])
    with pytest.raises(NotFound):
        await daemon.start(container)


async def test_two_forced_removals_at_once(daemon: Engine) -> None:
    container = await daemon.run()
    refused: list[NotFound] = []

    async def remove() -> None:
        try:
            await daemon.remove(container, force=True)
        except NotFound as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(remove)
        nursery.start_soon(remove)
    assert container.removed
    assert daemon.events(container).count("destroy") == 1


async def test_a_removal_waits_for_the_machine_of_an_end(daemon: Engine, host: Host) -> None:
    """Nothing may remove the disk while a machine still has it open."""
    container = await daemon.run("echo", "x")
    await daemon.ended(container)
    await daemon.remove(container)
    assert host.vms.journal[-1] == ("destroy", container.id)
    assert container.removed


async def test_a_removal_that_waits_for_a_start(daemon: Engine, host: Host) -> None:
    container = await daemon.create()
    async with trio.open_nursery() as nursery:
        async with container.lock:
            nursery.start_soon(daemon.start, container)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.start_soon(partial(daemon.remove, container, force=True))
            await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.fail_after(10):
            await daemon.until(container, lambda: container.removed)
    assert host.vms.vms == {}


async def test_a_start_that_waits_for_a_removal_finds_nothing(daemon: Engine) -> None:
    container = await daemon.run("echo", "x")
    await daemon.ended(container)

    async def start() -> None:
        with pytest.raises(NotFound, match="No such container"):
            await daemon.start(container)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.remove, container)
        await trio.lowlevel.checkpoint()
        nursery.start_soon(start)
    assert container.removed


async def test_auto_remove_and_a_forced_removal(daemon: Engine) -> None:
    container = await daemon.run(host=HostConfig(auto_remove=True))
    await daemon.remove(container, force=True)
    await daemon.until(container, lambda: container.removed)
    assert daemon.events(container).count("destroy") == 1
    assert daemon.registry.all() == []


async def test_a_name_is_free_after_the_removal(daemon: Engine) -> None:
    first = await daemon.run(name="web")
    await daemon.remove(first, force=True)
    second = await daemon.create(name="web")
    assert daemon.registry.get("web") is second


async def test_waiting_clients_hear_of_the_removal(daemon: Engine) -> None:
    container = await daemon.run()
    _, over = daemon.services.containers.wait(container.id, "removed")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.until, container, over)
        await daemon.remove(container, force=True)
