"""Machines that show the files of a container that does not run. The clock jumps over their idle time."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.engine.model.container import Container
from appliance.errors import HypervisorError, NotFound, VchError
from appliance.hypervisor.fake import Faults
from tests.appliance.engine.guest import echo
from tests.appliance.engine.harness import Engine, Host, engine

Clock = trio.testing.MockClock


@pytest.fixture
async def host(nursery: trio.Nursery, mock_clock: Clock) -> Host:
    mock_clock.rate = 1
    return Host(nursery, echo=echo)


@pytest.fixture
async def daemon(host: Host, tmp_path: Path) -> AsyncIterator[Engine]:
    async with engine(host, tmp_path) as running:
        yield running


def of_files(container: Container) -> str:
    """The id of the machine that shows the container's files."""
    return f"files{container.id}"[:64]


async def gone(host: Host, machine: str) -> None:
    """Wait until a machine is destroyed."""
    vm = host.vms.vms.get(machine)
    if vm is not None:
        await vm.off.wait()
    # The engine destroys it right after that.
    while machine in host.vms.vms:
        await trio.testing.wait_all_tasks_blocked(0.002)


async def quiet() -> None:
    await trio.testing.wait_all_tasks_blocked(0.02)


async def test_a_machine_comes_and_ends_after_ten_idle_seconds(daemon: Engine, host: Host, mock_clock: Clock) -> None:
    container = await daemon.create()
    machine = of_files(container)
    await daemon.services.archive.stat(container.id, "/etc")
    assert list(host.vms.vms) == [machine]
    # No process runs in it, and the container's state is as before.
    assert host.guest.launched == []
    assert daemon.events(container) == ["create"]
    await quiet()
    mock_clock.jump(9)
    await quiet()
    assert host.vms.vms[machine].on
    mock_clock.jump(1)
    await gone(host, machine)
    assert host.vms.journal == [("create", machine), ("start", machine), ("destroy", machine)]


async def test_a_machine_has_the_container_s_disk(daemon: Engine, host: Host) -> None:
    container = await daemon.create()
    await daemon.services.archive.stat(container.id, "/etc")
    (vm,) = host.vms.vms.values()
    assert vm.spec.disks[0].path == container.upper
    assert not vm.spec.disks[0].read_only


async def test_a_further_user_prolongs_the_session(daemon: Engine, host: Host, mock_clock: Clock) -> None:
    container = await daemon.create()
    for _ in range(3):
        await daemon.services.archive.stat(container.id, "/etc")
        await quiet()
        mock_clock.jump(9)
        await quiet()
    assert [action for action, _ in host.vms.journal] == ["create", "start"]


async def test_a_user_is_never_idle(daemon: Engine, host: Host, mock_clock: Clock) -> None:
    container = await daemon.create()
    async with daemon.services.archive.read(container.id, "/etc") as (_, archive):
        await quiet()
        mock_clock.jump(3600)
        await quiet()
        assert host.vms.vms[of_files(container)].on
        assert [piece async for piece in archive]


async def test_two_users_share_one_machine(daemon: Engine, host: Host, mock_clock: Clock) -> None:
    container = await daemon.create()
    inside = trio.Event()
    async with AsyncExitStack() as stack:

        async def second() -> None:
            await daemon.services.archive.stat(container.id, "/etc")
            inside.set()

        async with trio.open_nursery() as nursery:
            # Both ask before there is a machine.
            nursery.start_soon(second)
            await stack.enter_async_context(daemon.services.archive.read(container.id, "/etc"))
        assert inside.is_set()
        await quiet()
        # The end of one user is not the end of the session.
        mock_clock.jump(60)
        await quiet()
        assert list(host.vms.vms) == [of_files(container)]
    assert [action for action, _ in host.vms.journal] == ["create", "start"]


async def test_a_start_ends_an_idle_session_first(daemon: Engine, host: Host) -> None:
    container = await daemon.create()
    machine = of_files(container)
    await daemon.services.archive.stat(container.id, "/etc")
    await daemon.start(container)
    assert container.running
    # Never two machines with one disk.
    assert host.vms.journal[-3:] == [("destroy", machine), ("create", container.id), ("start", container.id)]


async def test_a_start_waits_for_a_user(daemon: Engine, host: Host) -> None:
    container = await daemon.create()
    async with trio.open_nursery() as nursery:
        async with daemon.services.archive.read(container.id, "/etc") as (_, archive):
            nursery.start_soon(daemon.start, container)
            await quiet()
            assert not container.running
            assert [piece async for piece in archive]
    assert container.running
    assert ("kill", of_files(container)) not in host.vms.journal


async def test_a_start_waits_ten_seconds_at_most(daemon: Engine, host: Host, mock_clock: Clock) -> None:
    container = await daemon.create()
    async with trio.open_nursery() as nursery, daemon.services.archive.read(container.id, "/etc") as (_, archive):
        nursery.start_soon(daemon.start, container)
        await quiet()
        mock_clock.jump(9)
        await quiet()
        assert ("kill", of_files(container)) not in host.vms.journal
        mock_clock.jump(1)
        await daemon.until(container, lambda: container.running)
        with pytest.raises(VchError):
            await anext(archive)
        # Other users see the container that runs.
        await daemon.services.archive.stat(container.id, "/etc")
    assert ("kill", of_files(container)) in host.vms.journal
    assert list(host.vms.vms) == [container.id]


async def test_a_running_container_needs_no_machine(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    await daemon.services.archive.stat(container.id, "/etc")
    assert list(host.vms.vms) == [container.id]


async def test_a_session_waits_for_the_end_of_the_run(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    await daemon.stop(container)
    await daemon.services.archive.stat(container.id, "/etc")
    ends = host.vms.journal.index(("destroy", container.id))
    assert ends < host.vms.journal.index(("create", of_files(container)))


async def test_a_removal_ends_the_session(daemon: Engine, host: Host) -> None:
    container = await daemon.create()
    await daemon.services.archive.stat(container.id, "/etc")
    await daemon.remove(container)
    assert container.removed
    assert host.vms.vms == {}
    with pytest.raises(NotFound, match=f"^No such container: {container.id}$"):
        async with daemon.services.archive.changes(container.id):
            pass


async def test_a_user_that_waits_while_the_container_is_removed(daemon: Engine, host: Host) -> None:
    container = await daemon.create()
    async with trio.open_nursery() as nursery:

        async def use() -> None:
            with pytest.raises(NotFound, match=f"^No such container: {container.id}$"):
                await daemon.services.archive.stat(container.id, "/etc")

        async with container.lock:
            nursery.start_soon(daemon.remove, container)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(use)
            await trio.testing.wait_all_tasks_blocked()
    assert container.removed
    assert host.vms.journal == []


@pytest.mark.parametrize(
    "faults",
    [Faults(create="no memory"), Faults(start="no memory"), Faults(dial="no memory")],
    ids=["create", "start", "dial"],
)
async def test_a_machine_that_does_not_start(daemon: Engine, host: Host, faults: Faults) -> None:
    host.vms.faults = faults
    container = await daemon.create()
    with pytest.raises(HypervisorError, match=r"^no memory$"):
        await daemon.services.archive.stat(container.id, "/etc")
    assert host.vms.vms == {}
    host.vms.faults = Faults()
    assert (await daemon.services.archive.stat(container.id, "/etc")).name == "etc"


async def test_a_guest_that_does_not_answer(daemon: Engine, host: Host) -> None:
    host.vms.faults = Faults(silent=True)
    container = await daemon.create()
    async with trio.open_nursery() as nursery:

        async def use() -> None:
            with pytest.raises(VchError):
                await daemon.services.archive.stat(container.id, "/etc")

        nursery.start_soon(use)
        await quiet()
        host.power_off(of_files(container))
    assert host.vms.vms == {}


async def test_a_machine_that_dies_is_replaced(daemon: Engine, host: Host) -> None:
    container = await daemon.create()
    machine = of_files(container)
    await daemon.services.archive.stat(container.id, "/etc")
    host.power_off(machine)
    await gone(host, machine)
    await daemon.services.archive.stat(container.id, "/etc")
    assert [action for action, _ in host.vms.journal] == ["create", "start", "destroy", "create", "start"]


async def test_a_machine_that_dies_under_its_user(daemon: Engine, host: Host) -> None:
    container = await daemon.create()
    async with daemon.services.archive.read(container.id, "/etc"):
        host.power_off(of_files(container))
        await gone(host, of_files(container))
    await daemon.start(container)
    assert container.running
