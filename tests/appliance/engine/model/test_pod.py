"""The machine of a pod: it lasts as long as the containers in it, and a session or a machine that ends is noticed."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from appliance.engine.model.pod import Pod
from appliance.errors import Conflict
from appliance.guest import GuestSession
from appliance.hypervisor import MachineSpec
from appliance.hypervisor.fake import FakeDriver, FakeMachine
from tests.appliance.engine.harness import Host
from tether.rpc.bridge import LoopThread

MakePod = Callable[[], Awaitable[Pod]]


@pytest.fixture
async def host(nursery: trio.Nursery) -> Host:
    return Host(nursery)


@pytest.fixture
async def make_pod(host: Host) -> AsyncIterator[MakePod]:
    async with LoopThread.open() as loop, trio.open_nursery() as pods:

        async def make() -> Pod:
            machine = await FakeDriver(host.vms, FakeMachine).create(MachineSpec("m", 1, 1))
            await machine.start()
            pod = Pod(machine, GuestSession(loop, await machine.dial_tether()))
            pod.sit("one")
            pods.start_soon(pod.run)
            return pod

        yield make
        pods.cancel_scope.cancel()


def journal(host: Host) -> list[str]:
    return [action for action, _ in host.vms.journal]


@pytest.mark.parametrize("clean", [True, False])
async def test_the_machine_ends_with_the_last_container(make_pod: MakePod, host: Host, clean: bool) -> None:
    pod = await make_pod()
    await pod.session.hello(5)
    off = host.guest.vms["m"].off
    await pod.leave("one", clean=clean)
    # Shutdown unmounts the disks.
    assert off.is_set() is clean
    assert (pod.gone.is_set(), host.vms.vms) == (True, {})
    with trio.fail_after(2):
        while not pod.session.closed:
            await trio.lowlevel.checkpoint()
    with pytest.raises(Conflict, match=r"^machine m is ending$"):
        pod.sit("two")
    await pod.leave("one", clean=clean)
    assert journal(host) == ["create", "start", "destroy"]


async def test_nobody_joins_a_machine_that_ends(make_pod: MakePod, host: Host, nursery: trio.Nursery) -> None:
    pod = await make_pod()
    nursery.start_soon(lambda: pod.leave("one", clean=True))
    while not pod.ending:
        await trio.lowlevel.checkpoint()
    assert not pod.gone.is_set()
    with pytest.raises(Conflict):
        pod.sit("two")


async def test_a_machine_that_ends_by_itself(make_pod: MakePod, host: Host) -> None:
    pod = await make_pod()
    await pod.session.hello(5)
    host.power_off("m")
    await pod.off.wait()
    # There is no guest to unmount its disks.
    with trio.fail_after(2):
        await pod.leave("one", clean=True)
    assert host.vms.vms == {}


async def test_the_end_of_a_container_that_was_cut_off_can_be_repeated(make_pod: MakePod, host: Host) -> None:
    pod = await make_pod()
    with trio.CancelScope() as scope:
        scope.cancel()
        await pod.leave("one", clean=True)
    assert not pod.gone.is_set()
    await pod.leave("one", clean=False)
    assert (pod.gone.is_set(), host.vms.vms) == (True, {})


async def test_a_session_that_fails_ends_the_machine(make_pod: MakePod, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: GuestSession) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(GuestSession, "run", fail)
    pod = await make_pod()
    await pod.off.wait()


async def test_a_daemon_that_ends_leaves_the_machine_on(host: Host) -> None:
    async with LoopThread.open() as loop:
        machine = await host.driver().create(MachineSpec("m", 1, 1))
        await machine.start()
        pod = Pod(machine, GuestSession(loop, await machine.dial_tether()))
        pod.sit("one")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pod.run)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert (machine.vm.on, pod.session.closed, journal(host)) == (True, True, ["create", "start"])
