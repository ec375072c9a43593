"""The pool of waiting machines: it fills while nothing starts, hands out what lives, and leaves nothing behind."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.engine.machines.pool import Pool, PoolPlan
from appliance.engine.machines.rehearsal import ContainerRehearsal
from appliance.errors import Conflict
from appliance.guest import GuestSession
from appliance.hypervisor import NO_BRIDGE, SOME_SHARES, Disk, GuestDisk, MachineSpec, Nic, Share
from appliance.hypervisor.fake import CloningDriver, FakeHost, FakeMachine, Faults
from tests.appliance.engine.guest import ScriptedGuest
from tether.rpc.bridge import LoopThread

KIND = MachineSpec("any", 256, 1, nic=Nic("02:42:0a:0b:00:fe", bridge=NO_BRIDGE))
SPEC = replace(
    KIND, id="c0ffee", name="web", disks=(Disk(Path("/upper"), False),), nic=Nic("02:42:0a:0b:00:02", bridge="br0")
)


class _Rehearsal:
    """A rehearsal that fails with the text in `failure`."""

    def __init__(self) -> None:
        self.failure = ""
        self.count = 0

    async def rehearse(self, session: GuestSession, kind: MachineSpec, disks: list[GuestDisk]) -> None:
        await session.hello(60)
        self.count += 1
        if self.failure:
            raise Conflict(self.failure)


class _Waiters:
    """A pool whose task runs until `end`, on a clock that only tests move."""

    def __init__(self, host: FakeHost, driver: CloningDriver, clock: MockClock, loop: LoopThread) -> None:
        self.host = host
        self.driver = driver
        self.room = True
        self.rehearsal = _Rehearsal()
        self._clock = clock
        self._loop = loop
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self.pool: Pool

    def begin(self, nursery: trio.Nursery, *, size: int = 2, lazy: bool = False, rehearsed: bool = False) -> Pool:
        rehearsal = cast(ContainerRehearsal, self.rehearsal) if rehearsed else None
        plan = PoolPlan(size, KIND, lazy)
        self.pool = Pool(plan, self.driver, rehearsal, self._loop, nursery, lambda: self.room)
        nursery.start_soon(self._run)
        return self.pool

    async def _run(self) -> None:
        with self._scope:
            await self.pool.run()
        self._ended.set()

    async def end(self) -> None:
        self._scope.cancel()
        await self._ended.wait()

    async def passes(self, seconds: float) -> None:
        await wait_all_tasks_blocked()
        self._clock.jump(seconds)
        await wait_all_tasks_blocked()

    @staticmethod
    async def until(holds: Callable[[], bool]) -> None:
        # The guest answers through real sockets, in no time of the test's clock.
        while not holds():
            await trio.lowlevel.checkpoint()

    async def filled(self, count: int = 2) -> None:
        await self.until(lambda: self.pool.ready == count)

    def journal(self, action: str) -> list[str]:
        return [machine for done, machine in self.host.journal if done == action]


@asynccontextmanager
async def _waiters(clock: MockClock) -> AsyncIterator[tuple[_Waiters, trio.Nursery]]:
    async with LoopThread.open() as loop, trio.open_nursery() as nursery:
        host = FakeHost(nursery, ScriptedGuest(nursery))
        driver = CloningDriver(host)
        driver.want(KIND)
        yield _Waiters(host, driver, clock, loop), nursery
        nursery.cancel_scope.cancel()


async def test_a_pool_fills_and_stays_full(mock_clock: MockClock) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        waiters.begin(nursery)
        await waiters.filled()
        assert waiters.journal("start") == ["blank1", "blank2"]
        # The machines may use the whole host now.
        assert not any(vm.background for vm in waiters.host.vms.values())
        await waiters.passes(60)
        assert waiters.journal("create") == ["blank1", "blank2"]


async def test_a_machine_becomes_a_containers(mock_clock: MockClock) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        pool = waiters.begin(nursery)
        await waiters.filled()
        waiting = pool.take(SPEC)
        assert waiting is not None
        await waiting.become(SPEC)
        assert waiting.machine.spec == SPEC
        assert pool.ready == 1
        # Its session runs already.
        assert (await waiting.session.hello(60)).version == "scripted"
        await waiters.end()
        assert list(waiters.host.vms) == ["c0ffee"]


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, memory_mib=512),
        replace(SPEC, cpus=2),
        replace(SPEC, nic=None),
        replace(SPEC, nic=Nic("02:42:0a:0b:00:02", "10.0.0.0/24")),
        replace(SPEC, shares=(Share(Path("/srv"), True),)),
        replace(SPEC, pci_devices=("0000:01:00.0",)),
        replace(SPEC, grows=True),
    ],
    ids=["memory", "cpus", "no network", "user-mode network", "shares", "PCI device", "grows"],
)
async def test_a_machine_of_another_shape_does_not_serve(mock_clock: MockClock, other: MachineSpec) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        pool = waiters.begin(nursery, size=1)
        await waiters.filled(1)
        assert pool.take(other) is None
        assert pool.ready == 1


async def test_machines_for_shares_serve_any_shares(mock_clock: MockClock) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        kind = replace(KIND, shares=SOME_SHARES)
        waiters.driver.want(kind)
        pool = waiters.pool = Pool(PoolPlan(1, kind), waiters.driver, None, waiters._loop, nursery, lambda: True)
        nursery.start_soon(pool.run)
        await waiters.filled(1)
        assert pool.take(SPEC) is None
        assert pool.take(replace(SPEC, shares=(Share(Path("/srv"), True), Share(Path("/etc"), False)))) is not None


async def test_a_pool_refills_after_a_pause_between_starts(mock_clock: MockClock) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        pool = waiters.begin(nursery, size=1)
        await waiters.filled(1)
        with pool.starting():
            assert pool.take(SPEC) is not None
            await waiters.passes(30)
            assert waiters.journal("create") == ["blank1"]
        await waiters.passes(0.4)
        with pool.starting():
            pass
        await waiters.passes(0.4)
        assert waiters.journal("create") == ["blank1"]
        await waiters.passes(0.2)
        await waiters.filled(1)
        assert waiters.journal("create") == ["blank1", "blank2"]


async def test_a_machine_that_ended_while_it_waited(mock_clock: MockClock) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        pool = waiters.begin(nursery)
        await waiters.filled()
        waiters.host.power_off("blank1")
        await waiters.until(lambda: pool._ready[0].session.closed)
        waiting = pool.take(SPEC)
        assert waiting is not None
        assert waiting.machine.id == "blank2"
        await waiters.until(lambda: waiters.journal("destroy") == ["blank1"])
        assert pool.ready == 0


async def test_machines_go_when_the_host_has_no_room(mock_clock: MockClock) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        pool = waiters.begin(nursery)
        await waiters.filled()
        waiters.room = False
        await waiters.passes(5.1)
        await waiters.filled(0)
        assert waiters.host.vms == {}
        assert pool.take(SPEC) is None
        waiters.room = True
        await waiters.passes(5.1)
        await waiters.filled()


async def test_a_lazy_pool_begins_with_the_first_start_of_its_kind(mock_clock: MockClock) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        pool = waiters.begin(nursery, lazy=True)
        await waiters.passes(60)
        assert pool.take(replace(SPEC, memory_mib=512)) is None
        await waiters.passes(60)
        assert waiters.host.journal == []
        with pool.starting():
            assert pool.take(SPEC) is None
        await waiters.passes(0.6)
        await waiters.filled()


async def test_no_machine_is_left_at_the_end(mock_clock: MockClock) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        waiters.begin(nursery)
        await waiters.filled()
        await waiters.end()
        assert waiters.host.vms == {}
        assert waiters.pool.ready == 0


async def test_the_end_while_a_machine_is_made(mock_clock: MockClock) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        waiters.host.faults = Faults(silent=True)
        waiters.begin(nursery)
        await waiters.until(lambda: waiters.journal("start") == ["blank1"])
        await wait_all_tasks_blocked()
        assert waiters.host.vms["blank1"].background
        await waiters.end()
        assert waiters.host.vms == {}


async def test_a_guest_that_does_not_answer(mock_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        waiters.host.faults = Faults(silent=True)
        waiters.begin(nursery, size=1)
        await waiters.until(lambda: waiters.journal("start") == ["blank1"])
        await waiters.passes(61)
        await waiters.until(lambda: waiters.journal("destroy") == ["blank1"])
        waiters.host.faults = Faults()
        await waiters.passes(5.1)
        await waiters.filled(1)
    assert "the pool could not make a machine" in caplog.text


async def test_a_machine_that_cannot_be_made_is_tried_again(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        waiters.host.faults = Faults(create="the disk is full")
        waiters.begin(nursery, size=1)
        with caplog.at_level(logging.WARNING):
            await waiters.until(lambda: "the disk is full" in caplog.text)
        waiters.host.faults = Faults()
        await waiters.passes(4)
        assert waiters.pool.ready == 0
        await waiters.passes(1.1)
        await waiters.filled(1)


async def test_without_a_template_the_pool_waits(mock_clock: MockClock) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        waiters.driver._kinds.clear()
        waiters.begin(nursery, size=1)
        await waiters.passes(1)
        assert waiters.host.journal == []
        await waiters.passes(4.1)
        await waiters.filled(1)


async def test_machines_rehearse_before_they_wait(mock_clock: MockClock) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        waiters.rehearsal.failure = "no output"
        waiters.begin(nursery, size=1, rehearsed=True)
        await waiters.until(lambda: waiters.journal("destroy") == ["blank1"])
        assert waiters.pool.ready == 0
        waiters.rehearsal.failure = ""
        await waiters.passes(5.1)
        await waiters.filled(1)
        assert waiters.rehearsal.count == 2


async def test_a_machine_that_does_not_adapt_is_ended(mock_clock: MockClock) -> None:
    async with _waiters(mock_clock) as (waiters, nursery):
        pool = waiters.begin(nursery, size=1)
        await waiters.filled(1)
        waiting = pool.take(SPEC)
        assert waiting is not None
        assert isinstance(waiting.machine, FakeMachine)
        await waiting.end()
        assert waiters.host.vms == {}
        await waiters.until(lambda: waiting.session.closed)
