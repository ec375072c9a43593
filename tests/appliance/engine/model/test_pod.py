"""The machine of a pod: it lasts as long as the containers in it, and a session or a machine that ends is noticed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.container.guest_paths import GuestPaths
from appliance.engine.model.pod import Devices, Pod
from appliance.errors import Conflict, HypervisorError
from appliance.guest import GuestSession
from appliance.hypervisor import Disk, MachineSpec, Share
from appliance.hypervisor.fake import FakeDriver, FakeHost, FakeMachine, VersatileMachine
from protos.tether.v1 import sandbox_pb2
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
            pod.sit("one", first=True)
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
    with trio.fail_after(10):
        while not pod.session.closed:
            await trio.lowlevel.checkpoint()
    with pytest.raises(Conflict, match=r"^machine m is ending$"):
        pod.sit("two", first=True)
    await pod.leave("one", clean=clean)
    assert journal(host) == ["create", "start", "destroy"]


async def test_nobody_joins_a_machine_that_ends(make_pod: MakePod, host: Host, nursery: trio.Nursery) -> None:
    pod = await make_pod()
    nursery.start_soon(lambda: pod.leave("one", clean=True))
    while not pod.ending:
        await trio.lowlevel.checkpoint()
    assert not pod.gone.is_set()
    with pytest.raises(Conflict):
        pod.sit("two", first=True)


async def test_a_machine_that_ends_by_itself(make_pod: MakePod, host: Host) -> None:
    pod = await make_pod()
    await pod.session.hello(5)
    host.power_off("m")
    await pod.off.wait()
    # There is no guest to unmount its disks.
    with trio.fail_after(10):
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
        pod.sit("one", first=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pod.run)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert (machine.vm.on, pod.session.closed, journal(host)) == (True, True, ["create", "start"])


async def test_a_share_of_the_machine_is_used_again(host: Host) -> None:
    """In another mount the files would have other inodes, by which the kernel finds the sockets in them."""
    folders = [Path(f"/srv/{name}") for name in "abc"]
    have = (Share(folders[0], False), Share(folders[1], True))
    machine = await FakeDriver(host.vms, VersatileMachine).create(MachineSpec("m", 1, 1, shares=have, grows=True))
    await machine.start()
    async with LoopThread.open() as loop:
        pod = Pod(machine, GuestSession(loop, await machine.dial_tether()))
        pod.sit("one", first=True)
        wanted = (Share(folders[0], True), Share(folders[1], False), Share(folders[2], True, cached=True))
        for name, tag, new in (("two", "vch1", wanted[1:]), ("three", "", ())):
            devices = Devices([Disk(Path(f"/{name}"), False)], 0, wanted)
            async with pod.furnished(pod.sit(name, first=False), devices, GuestPaths(f"/{name}")) as layout:
                # The container that follows the second one finds everything there.
                assert layout.shares == (
                    "/run/tether/shares/0",
                    "/run/tether/shares-vch1/0",
                    "/run/tether/shares-vch1/1",
                )
                assert (layout.share_tag, machine.spec.more_shares) == (tag, (wanted[1:],))
                assert not tag or new == machine.spec.more_shares[0]
                assert pod.why_not_shared(wanted) == ""


async def test_a_machine_that_cannot_share_more(host: Host) -> None:
    machine = await FakeDriver(host.vms, VersatileMachine).create(MachineSpec("m", 1, 1))
    await machine.start()
    async with LoopThread.open() as loop:
        pod = Pod(machine, GuestSession(loop, await machine.dial_tether()))
        devices = Devices([Disk(Path("/two"), False)], 0, (Share(Path("/srv"), True),))
        assert pod.why_not_shared(devices.shares) == "the machine has no shared memory"
        assert pod.why_not_shared(()) == ""
        with pytest.raises(HypervisorError, match="the machine has no shared memory"):
            async with pod.furnished(pod.sit("two", first=False), devices, GuestPaths("/two")):
                pass


class _Guest:
    """What a Pod uses of a session: it removes containers, and knows which disks are mounted."""

    def __init__(self) -> None:
        self.began = True
        self.closed = False
        self.removed: list[str] = []

    def close(self) -> None:
        self.closed = True

    async def shut_down(self) -> None:
        await trio.lowlevel.checkpoint()

    async def call(self, _: str, request: sandbox_pb2.RemoveRequest, response: type[Message], __: float) -> Message:
        await trio.lowlevel.checkpoint()
        self.removed.append(request.id)
        return response()


@dataclass(frozen=True)
class _Member:
    """A container that joins after some turns of the loop, stays for some, and whose first `leave` may be cut off."""

    joins: int
    stays: int
    cut_off: int


_MEMBERS = st.lists(st.builds(_Member, st.integers(0, 12), st.integers(0, 12), st.integers(0, 6)), max_size=4)


@settings(max_examples=50, deadline=None)
@given(_MEMBERS, st.integers(0, 12), st.none() | st.integers(0, 30))
def test_the_machine_is_destroyed_once_and_after_the_last_container(
    members: list[_Member], first_stays: int, dies: int | None
) -> None:
    trio.run(_race, members, first_stays, dies, clock=trio.testing.MockClock(autojump_threshold=0))


async def _turns(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def _race(members: list[_Member], first_stays: int, dies: int | None) -> None:
    async with trio.open_nursery() as nursery:
        host, guest = FakeHost(nursery), _Guest()
        machine = await FakeDriver(host, VersatileMachine).create(MachineSpec("m", 1, 1))
        await machine.start()
        pod = Pod(machine, cast(GuestSession, guest))
        living = {"first"}

        async def leave(name: str, cut_off: int) -> None:
            living.discard(name)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as leaving:

                    async def cut() -> None:
                        await _turns(cut_off)
                        scope.cancel()

                    leaving.start_soon(cut)
                    await pod.leave(name, clean=True)
                    leaving.cancel_scope.cancel()
            # The machine runs on for those that have not ended.
            assert dies is not None or machine.vm.on or not living
            await pod.leave(name, clean=False)
            # No machine has its disk.
            assert (
                all(disk is None or disk.path != Path(f"/{name}") for disk in machine.spec.more_disks)
                or pod.gone.is_set()
            )

        async def live(name: str, member: _Member) -> None:
            await _turns(member.joins)
            try:
                seat = pod.sit(name, first=False)
            except Conflict:
                assert pod.ending
                return
            living.add(name)
            try:
                async with pod.furnished(seat, Devices([Disk(Path(f"/{name}"), False)], 0), GuestPaths(seat.base)):
                    await trio.lowlevel.checkpoint()
                await _turns(member.stays)
            except HypervisorError:
                assert pod.off.is_set() or not machine.vm.on
            await leave(name, member.cut_off)

        async def begin() -> None:
            await _turns(first_stays)
            await leave("first", 0)

        pod.sit("first", first=True)
        async with trio.open_nursery() as all_of:
            all_of.start_soon(pod.run)
            all_of.start_soon(begin)
            for number, member in enumerate(members):
                all_of.start_soon(live, f"member{number}", member)
            if dies is not None:
                await _turns(dies)
                machine.vm.power_off()
        assert (pod.seats, pod.gone.is_set(), host.vms) == ({}, True, {})
        assert [action for action, _ in host.journal].count("destroy") == 1
        nursery.cancel_scope.cancel()
