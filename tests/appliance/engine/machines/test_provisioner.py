"""Where a container's machine comes from: the pool, else a new machine, which boots or goes on from a checkpoint."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import Created
from appliance.engine.machines.admission import Admission
from appliance.engine.machines.boot import MachineSize
from appliance.engine.machines.pool import Pool, PoolPlan
from appliance.engine.machines.provisioner import MachineProvisioner
from appliance.engine.model.container import Container
from appliance.engine.model.mount_plan import MountPlan
from appliance.errors import HypervisorError, Unsupported
from appliance.guest import GuestFailure, GuestSession
from appliance.hypervisor import NO_BRIDGE, Disk, MachineSpec, Nic
from appliance.hypervisor.fake import CloningDriver, FakeDriver, FakeHost, Faults, VersatileMachine
from appliance.image.store import ImageStore
from tests.appliance.engine.guest import ScriptedGuest
from tests.appliance.image.test_pull import config_of, opened_store
from tests.archives import Pieces, Tar
from tether.rpc.bridge import LoopThread

KIND = MachineSpec("any", 256, 1, nic=Nic("02:42:0a:0b:00:fe", bridge=NO_BRIDGE))
SPEC = replace(KIND, id="c0ffee", nic=Nic("02:42:0a:0b:00:02", bridge="br0"))
SIZE = MachineSize(256, 1)


class _Source:
    """A provisioner on a fake host, and its pool of one machine."""

    def __init__(self, nursery: trio.Nursery, loop: LoopThread, images: ImageStore) -> None:
        self.guest = ScriptedGuest(nursery)
        self.host = FakeHost(nursery, self.guest)
        self.driver = CloningDriver(self.host)
        self.driver.want(KIND)
        self.pool = Pool(PoolPlan(1, KIND), self.driver, None, loop, nursery, lambda: True)
        self._loop, self._images, self._nursery = loop, images, nursery
        self.provisioner = self.on(self.driver)

    def on(self, driver: FakeDriver) -> MachineProvisioner:
        return MachineProvisioner(driver, [self.pool], Admission(1), self._images, SIZE, self._loop, self._nursery)

    async def journal_after(self, clock: MockClock, seconds: float, entry: tuple[str, str]) -> None:
        """The host's journal gets the entry after so many seconds, not a second before, and at most ten later."""
        await self._settle()
        clock.jump(seconds - 1)
        await self._settle()
        assert entry not in self.host.journal
        for _ in range(11):
            clock.jump(1)
            for _ in range(100):
                if entry in self.host.journal:
                    return
                await self._settle(1)
        raise AssertionError(f"no {entry}: {self.host.journal}")

    async def _settle(self, milliseconds: int = 20) -> None:
        """A call of a guest, or its cancellation, goes to the thread of the loop and back. Until then no second may go by."""
        for _ in range(milliseconds):
            await self._loop.run(partial(asyncio.sleep, 0.001))
            await trio.testing.wait_all_tasks_blocked()

    async def fill(self) -> None:
        self._nursery.start_soon(self.pool.run)
        while not self.pool.ready:
            await trio.lowlevel.checkpoint()
        self.host.journal.clear()


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[_Source]:
    async with opened_store(tmp_path) as images, LoopThread.open() as loop, trio.open_nursery() as nursery:
        yield _Source(nursery, loop, images)
        nursery.cancel_scope.cancel()


def _container(image: str, host_config: HostConfig | None = None) -> Container:
    record = ContainerRecord(
        secrets.token_hex(32), "web", 1, image, "image", ContainerConfig(), host_config or HostConfig()
    )
    return Container(record, Path("/containers/web"), Created())


async def test_the_pool_comes_first(source: _Source, mock_clock: MockClock) -> None:
    await source.fill()
    async with source.provisioner.turn():
        machine, session = await source.provisioner.get(SPEC)
    assert source.host.journal == [("become", "c0ffee")]
    assert machine.spec == SPEC
    assert session.began
    assert not session.closed


async def test_an_empty_pool_means_a_boot(source: _Source) -> None:
    _, session = await source.provisioner.get(SPEC)
    assert source.host.journal == [("create", "c0ffee"), ("start", "c0ffee")]
    assert (session.began, session.closed) == (True, False)
    session.close()


async def test_a_machine_of_the_pool_that_does_not_adapt_is_replaced(source: _Source, mock_clock: MockClock) -> None:
    await source.fill()
    source.host.faults = Faults(become="no slot for a disk")
    async with source.provisioner.turn():
        await source.provisioner.get(SPEC)
    assert source.host.journal == [("destroy", "blank1"), ("create", "c0ffee"), ("start", "c0ffee")]
    assert list(source.host.vms) == ["c0ffee"]


async def test_a_checkpoint_goes_around_the_pool(source: _Source, tmp_path: Path, mock_clock: MockClock) -> None:
    await source.fill()
    (tmp_path / "state").write_text('{"id": "c0ffee"}')
    async with source.provisioner.turn():
        machine, _ = await source.provisioner.get(SPEC, tmp_path)
    assert source.host.journal == [("create", "c0ffee"), ("start", "c0ffee")]
    assert (source.pool.ready, machine.id) == (1, "c0ffee")


@pytest.mark.parametrize("faults", [Faults(start="no memory"), Faults(dial="no line")], ids=["start", "dial"])
async def test_a_machine_that_fails_is_destroyed(source: _Source, faults: Faults) -> None:
    source.host.faults = faults
    with pytest.raises(HypervisorError, match=faults.start or faults.dial):
        await source.provisioner.get(SPEC)
    assert source.host.journal[-1] == ("destroy", "c0ffee")
    assert source.host.vms == {}


# -- guests that do not answer ----------------------------------------------------------------------------------------


class _Restoring(VersatileMachine):
    """A Restorable machine. After a restore its guest is silent; after a boot the guest answers, unless the host is `dead`."""

    restored = False
    dead = False

    async def start(self) -> None:
        await super().start()
        self.restored = self._host.faults.silent = True

    async def boot(self) -> None:
        self._host.journal.append(("boot", self.id))
        self.vm.power_off()
        self.restored, self._host.faults.silent = False, self.dead
        await self.vm.power_on()


class _Dead(_Restoring):
    dead = True


async def test_a_guest_that_boots_and_is_silent_ends_the_start(source: _Source, mock_clock: MockClock) -> None:
    source.host.faults = Faults(silent=True)
    async with trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(GuestFailure, match=r"^the guest has not answered in 120 s$"):
                await source.provisioner.get(SPEC)

        nursery.start_soon(start)
        await source.journal_after(mock_clock, 120, ("destroy", "c0ffee"))
    assert source.host.vms == {}


async def test_a_restored_guest_that_is_silent_boots(
    source: _Source, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    provisioner = source.on(FakeDriver(source.host, _Restoring))
    async with trio.open_nursery() as nursery:
        found: list[GuestSession] = []

        async def start() -> None:
            _, session = await provisioner.get(SPEC)
            found.append(session)

        nursery.start_soon(start)
        await source.journal_after(mock_clock, 30, ("boot", "c0ffee"))
    assert source.host.journal == [("create", "c0ffee"), ("start", "c0ffee"), ("boot", "c0ffee")]
    assert (found[0].began, found[0].closed) == (True, False)
    assert (
        "the restored guest of machine c0ffee is ended, and the machine boots: the guest has not answered in 30 s"
        in caplog.messages
    )


async def test_a_machine_boots_once(source: _Source, mock_clock: MockClock) -> None:
    provisioner = source.on(FakeDriver(source.host, _Dead))
    async with trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(GuestFailure, match=r"^the guest has not answered in 120 s$"):
                await provisioner.get(SPEC)

        nursery.start_soon(start)
        await source.journal_after(mock_clock, 30, ("boot", "c0ffee"))
        await source.journal_after(mock_clock, 120, ("destroy", "c0ffee"))
    assert source.host.journal[1:] == [("start", "c0ffee"), ("boot", "c0ffee"), ("destroy", "c0ffee")]


async def test_a_guest_of_the_pool_that_is_silent_is_ended_and_the_machine_boots(
    source: _Source, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await source.fill()
    provisioner = source.on(FakeDriver(source.host, _Restoring))
    source.guest.vms["blank1"].silent = True
    async with trio.open_nursery() as nursery:

        async def start() -> None:
            async with provisioner.turn():
                await provisioner.get(SPEC)

        nursery.start_soon(start)
        await source.journal_after(mock_clock, 30, ("destroy", "c0ffee"))
    # The template is not tried: the machine of the pool came from it, too.
    assert source.host.journal == [
        ("become", "c0ffee"),
        ("destroy", "c0ffee"),
        ("create", "c0ffee"),
        ("boot", "c0ffee"),
    ]
    assert "container c0ffee gets no machine from the pool: the guest has not answered in 30 s" in caplog.messages


async def test_a_machine_that_ends_before_its_guest_answers(source: _Source) -> None:
    source.host.faults = Faults(silent=True, dies_after=0.01)
    with pytest.raises(GuestFailure, match=r"^the machine ended by itself$"):
        await source.provisioner.get(SPEC)
    assert source.host.vms == {}


async def test_a_cancelled_start_destroys_its_machine(source: _Source) -> None:
    source.host.faults = Faults(dial_hangs=True)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.provisioner.get, SPEC)
            while ("start", "c0ffee") not in source.host.journal:
                await trio.lowlevel.checkpoint()
            scope.cancel()
    assert source.host.vms == {}


async def test_checkpoints_that_do_not_start(source: _Source, tmp_path: Path) -> None:
    (tmp_path / "state").write_text('{"id": "another"}')
    with pytest.raises(HypervisorError, match="the state was saved from machine another"):
        await source.provisioner.get(SPEC, tmp_path)
    with pytest.raises(Unsupported, match=r"^this hypervisor does not support checkpoints$"):
        await source.on(FakeDriver(source.host)).get(SPEC, tmp_path)
    assert source.host.vms == {}


async def test_a_start_waits_for_its_turn_and_stops_the_pool(source: _Source, mock_clock: MockClock) -> None:
    facts = source.provisioner.facts
    size = {"VM memory": "256 MiB", "VM CPUs": "1"}
    assert facts() == {"Machines waiting": "0", "Starts queued": "0", **size}
    entered = trio.Event()

    async def second() -> None:
        async with source.provisioner.turn():
            entered.set()

    async with trio.open_nursery() as nursery:
        async with source.provisioner.turn():
            nursery.start_soon(source.pool.run)
            nursery.start_soon(second)
            await trio.testing.wait_all_tasks_blocked()
            assert facts() == {"Machines waiting": "0", "Starts queued": "1", **size}
            assert not entered.is_set()
            mock_clock.jump(30)
            await trio.testing.wait_all_tasks_blocked()
            assert source.host.journal == []
        await entered.wait()
        while not source.pool.ready:
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.1)
        assert facts() == {"Machines waiting": "1", "Starts queued": "0", **size}
        nursery.cancel_scope.cancel()


async def test_the_machine_of_a_container(source: _Source) -> None:
    tars = [Tar().add(name, name.encode()).bytes() for name in ("a", "b")]
    for tar in tars:
        await source._images.add_new_layer(Pieces(tar))
    image = await source._images.add_image(config_of(tars))
    container = _container(image.id, HostConfig(memory=500 << 20))
    plan = MountPlan(disks=(Disk(Path("/volume"), False),))
    spec = source.provisioner.spec(container, plan)
    layers = source._images.layer_paths(image.id)
    assert [disk.path for disk in spec.disks] == [container.upper, *layers, Path("/volume")]
    assert (spec.id, spec.name, spec.memory_mib, spec.nic) == (container.id, "web", 1024, None)
    nic = Nic("02:42:0a:0b:00:09", bridge="br0")
    files = source.provisioner.files_spec(container, nic, plan)
    # It is never taken for the container's own machine, and its limits are not the container's.
    assert files.id == f"files{container.id}"[:64]
    assert (files.memory_mib, files.nic, files.disks) == (256, nic, spec.disks)
