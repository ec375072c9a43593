"""The driver in memory passes the contract, and fails on demand."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.errors import HypervisorError
from appliance.hypervisor import (
    SCRATCH,
    Adaptable,
    Checkpointable,
    Cloning,
    Disk,
    Driver,
    MachineSpec,
    Nic,
    Pluggable,
    Power,
    ResourceShares,
    SetShares,
    Share,
    Suspendable,
    TakesDisks,
    TakesShares,
    why_no_shares,
)
from appliance.hypervisor.fake import (
    CloningDriver,
    FakeDriver,
    FakeHost,
    FakeMachine,
    Faults,
    VersatileMachine,
)
from appliance.hypervisor.fake_disks import FakeDisks
from tests.appliance.hypervisor.contract import ConcurrentPlugging, DriverContract
from tests.tether.rpc.echo import random_id
from tether.rpc.listener import serve_link
from tether.transport import Line, LineClosed

SPEC = MachineSpec("m1", 256, 1, name="web")


async def _guest(_spec: MachineSpec, line: Line) -> None:
    try:
        await serve_link(line, {}, random_id)
    except* LineClosed:
        await trio.sleep_forever()


_hosts: dict[Path, FakeHost] = {}


@asynccontextmanager
async def _opened(root: Path, machine: type[FakeMachine] = FakeMachine) -> AsyncIterator[Driver]:
    async with trio.open_nursery() as nursery:
        host = _hosts.setdefault(root, FakeHost(nursery, _guest))
        host.nursery = nursery
        yield FakeDriver(host, machine)
        nursery.cancel_scope.cancel()


class TestFake(DriverContract):
    def open_driver(self, root: Path) -> AbstractAsyncContextManager[Driver]:
        return _opened(root)

    async def end_from_outside(self, root: Path, machine_id: str) -> None:
        _hosts[root].power_off(machine_id)


class TestFakePlugging(ConcurrentPlugging):
    def open_driver(self, root: Path) -> AbstractAsyncContextManager[Driver]:
        return _opened(root, VersatileMachine)

    @contextmanager
    def refused_disk(self, root: Path) -> Iterator[Disk]:
        _hosts[root].faults = Faults(plug="refused")
        yield Disk(root / "refused", True)
        _hosts[root].faults = Faults()


async def test_a_test_holds_both_ends_of_the_line(nursery: trio.Nursery) -> None:
    host = FakeHost(nursery)
    machine = await FakeDriver(host).create(SPEC)
    await machine.start()
    near = await machine.dial_tether()
    far = await machine.vm.accept()
    far.try_write(b"from the guest")
    assert await near.read() == b"from the guest"
    near.close()
    with pytest.raises(LineClosed):
        await far.read()
    far.close()


async def test_a_guest_that_returns_powers_its_machine_off(nursery: trio.Nursery) -> None:
    async def guest(spec: MachineSpec, line: Line) -> None:
        assert spec == SPEC
        await line.read()

    machine = await FakeDriver(FakeHost(nursery, guest)).create(SPEC)
    await machine.start()
    line = await machine.dial_tether()
    line.try_write(b"shut down")
    await machine.wait_off()
    with pytest.raises(LineClosed):
        await line.read()
    line.close()
    assert await machine.power() is Power.OFF


async def test_a_restarted_appliance_adopts_the_machines(nursery: trio.Nursery) -> None:
    host = FakeHost(nursery, _guest)
    first = await FakeDriver(host).create(SPEC)
    await first.start()
    (second,) = await FakeDriver(host).adopt()
    assert second is not first
    assert second.spec == SPEC
    await second.destroy()
    assert await first.power() is Power.OFF
    assert host.journal == [("create", "m1"), ("start", "m1"), ("destroy", "m1")]


async def test_faults(nursery: trio.Nursery) -> None:
    host = FakeHost(nursery, _guest, Faults(create="no room"))
    driver = FakeDriver(host)
    with pytest.raises(HypervisorError, match="no room"):
        await driver.create(SPEC)
    host.faults = Faults(start="no memory")
    machine = await driver.create(SPEC)
    with pytest.raises(HypervisorError, match="no memory"):
        await machine.start()
    assert await machine.power() is Power.OFF
    host.faults = Faults(dial="no route")
    await machine.start()
    with pytest.raises(HypervisorError, match="no route"):
        await machine.dial_tether()


async def test_faults_of_time(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = FakeHost(nursery, _guest, Faults(start_seconds=3, dies_after=5))
    machine = await FakeDriver(host).create(SPEC)
    before = trio.current_time()
    await machine.start()
    assert trio.current_time() - before == 3
    await machine.wait_off()
    assert trio.current_time() - before == 8
    host.faults = Faults(dial_hangs=True)
    await machine.start()
    with trio.move_on_after(100) as scope:
        await machine.dial_tether()
    assert scope.cancelled_caught
    host.faults = Faults(silent=True)
    line = await machine.dial_tether()
    with trio.move_on_after(100) as scope:
        await line.read()
    assert scope.cancelled_caught
    line.close()


async def test_a_plain_machine_has_no_extras(nursery: trio.Nursery) -> None:
    driver = FakeDriver(FakeHost(nursery))
    machine = await driver.create(SPEC)
    assert not isinstance(machine, Pluggable | Suspendable | SetShares | Adaptable | Checkpointable)
    assert not isinstance(machine, TakesDisks | TakesShares)
    assert not isinstance(driver, Cloning)
    assert why_no_shares(driver) == "this hypervisor runs machines on other hosts than the daemon's"


async def test_a_versatile_machine(nursery: trio.Nursery, tmp_path: Path) -> None:
    driver = CloningDriver(FakeHost(nursery))
    assert isinstance(driver, Cloning)
    assert await driver.create_blank(SPEC) is None
    machine = await driver.create_blank(SPEC)
    assert isinstance(machine, VersatileMachine)
    assert isinstance(machine, Pluggable)
    assert isinstance(machine, Suspendable)
    assert isinstance(machine, SetShares)
    assert isinstance(machine, Adaptable)
    assert isinstance(machine, Checkpointable)
    assert isinstance(machine, TakesDisks)
    assert isinstance(machine, TakesShares)
    await machine.become(SPEC)
    assert [found.id for found in await driver.adopt()] == ["m1"]
    await machine.plug_nic(Nic("02:00:00:00:00:01"))
    await machine.unplug_nic("02:00:00:00:00:01")
    assert machine.spec.more_nics == (None,)
    with pytest.raises(HypervisorError):
        await machine.unplug_nic("02:00:00:00:00:01")
    await machine.set_shares(ResourceShares(512))
    assert machine.vm.shares.cpu_shares == 512
    before = machine.placement
    async with trio.open_nursery() as waiting:
        waiting.start_soon(machine.wait_changed, before)
        await wait_all_tasks_blocked()
        await machine.suspend()
    assert machine.placement.suspended
    await machine.resume()
    paused: list[bool] = []
    await machine.save_to(tmp_path, lambda: paused.append(True), go_on=False)
    assert paused == [True]
    assert await machine.power() is Power.OFF
    await machine.start_from(tmp_path)
    assert await machine.power() is Power.ON


async def test_disks_and_shares_of_a_versatile_machine(nursery: trio.Nursery) -> None:
    host = FakeHost(nursery)
    machine: FakeMachine = await FakeDriver(host, VersatileMachine).create(SPEC)
    assert isinstance(machine, VersatileMachine)
    disk, share = Disk(Path("/d"), True), Share(Path("/s"), False)
    with pytest.raises(HypervisorError, match="m1 is off"):
        await machine.plug_disks([disk])
    await machine.start()
    host.faults = Faults(plug="no room")
    with pytest.raises(HypervisorError, match="no room"):
        await machine.plug_disks([disk])
    host.faults = Faults(disk_places=1)
    assert machine.free_disks() == 1
    await machine.plug_disks([disk])
    assert machine.free_disks() == 0
    host.faults = Faults(release="busy")
    with pytest.raises(HypervisorError, match="busy"):
        await machine.release_disks([disk.path])
    host.faults = Faults()
    await machine.release_disks([disk.path])
    with pytest.raises(HypervisorError, match="no shared memory"):
        await machine.plug_shares((share,))
    machine.vm.spec = replace(SPEC, grows=True)
    assert [await machine.plug_shares((share,)) for _ in range(2)] == ["vch1", "vch2"]
    assert machine.spec.more_shares == ((share,), (share,))
    assert host.journal[2:] == [("plug", "/d"), ("release", "/d"), ("share", "vch1"), ("share", "vch2")]


async def test_a_state_of_another_machine_is_refused(nursery: trio.Nursery, tmp_path: Path) -> None:
    driver = FakeDriver(FakeHost(nursery), VersatileMachine)
    machine: FakeMachine = await driver.create(SPEC)
    assert isinstance(machine, VersatileMachine)
    with pytest.raises(HypervisorError, match="damaged"):
        await machine.start_from(tmp_path)
    (tmp_path / "state").write_text('{"id": "m2"}')
    with pytest.raises(HypervisorError, match="from machine m2"):
        await machine.start_from(tmp_path)


async def test_disks_in_memory() -> None:
    disks = FakeDisks()
    here, there = Path("a/upper"), Path("b/upper")
    for path in (here, there):
        await disks.create(path, SCRATCH)
    assert await disks.used(here) == SCRATCH.size
    await disks.sweep([here], [], [])
    assert await disks.used(there) == 0
    await disks.remove(here)
    assert disks.sizes == {}
