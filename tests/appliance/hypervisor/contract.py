"""The tests that every driver passes. A driver's test class inherits them and implements `open_driver` and `end_from_outside`.

`PluggingContract` is for drivers whose machines take disks while they run.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from appliance.errors import HypervisorError
from appliance.hypervisor import (
    Disk,
    Driver,
    Machine,
    MachineSpec,
    Nic,
    Pluggable,
    Power,
    TakesDisks,
    Usage,
    why_no_shares,
)


class DriverContract(ABC):
    @abstractmethod
    def open_driver(self, root: Path) -> AbstractAsyncContextManager[Driver]:
        """A connected driver with its state below `root`. Opened again on the same folder, it adopts the machines of before."""

    def spec(self, root: Path, name: str = "m1") -> MachineSpec:
        disk = root / f"{name}.disk"
        disk.write_bytes(bytes(1 << 20))
        return MachineSpec(name, 256, 1, (Disk(disk, False),))

    async def with_disks(self, driver: Driver, spec: MachineSpec) -> MachineSpec:
        """Create the disks of a spec. A driver whose disks are not files of this host overrides this."""
        return spec

    async def test_a_driver_without_machines(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            assert await driver.adopt() == []

    async def test_a_driver_describes_itself(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            facts = driver.describe()
            assert facts["Driver"]
            assert all(isinstance(value, str) for value in facts.values())
            assert isinstance(why_no_shares(driver), str)
            capacity = await driver.capacity()
            assert capacity.cpus > 0
            assert capacity.memory > 64 << 20

    async def test_a_new_machine_is_off(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            machine = await driver.create(await self.with_disks(driver, self.spec(short_path)))
            assert machine.id == "m1"
            assert await machine.power() is Power.OFF
            assert await machine.usage() == Usage(0, 0)
            assert isinstance(machine.last_words(), str)
            with trio.fail_after(10):
                await machine.wait_off()
            await machine.kill()
            await machine.destroy()

    async def test_a_spec_outlives_the_driver(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            spec = replace(await self.with_disks(driver, self.spec(short_path)), name="web")
            machine = await driver.create(spec)
            assert machine.spec == spec
        async with self.open_driver(short_path) as driver:
            (found,) = await driver.adopt()
            assert found.id == spec.id
            assert found.spec == spec
            await found.destroy()

    async def test_a_destroyed_machine_is_not_adopted(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            machine = await driver.create(await self.with_disks(driver, self.spec(short_path)))
            await machine.destroy()
            await machine.destroy()
        async with self.open_driver(short_path) as driver:
            assert await driver.adopt() == []

    async def test_machines_are_independent(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            one, two = [
                await driver.create(await self.with_disks(driver, self.spec(short_path, name))) for name in ("m1", "m2")
            ]
            await one.start()
            await two.start()
            await one.kill()
            assert await one.power() is Power.OFF
            assert await two.power() is Power.ON
            await one.destroy()
            assert await two.power() is Power.ON
            await two.destroy()

    async def test_each_disk_has_an_address(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            machine = await driver.create(await self.with_disks(driver, self.spec(short_path)))
            await machine.start()
            disks = machine.guest_disks()
            assert len(disks) == len(machine.spec.disks)
            assert len({disk.address for disk in disks}) == len(disks)
            await machine.destroy()

    async def test_life_of_a_machine(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            machine = await driver.create(await self.with_disks(driver, self.spec(short_path)))
            assert await machine.power() is Power.OFF
            await machine.start()
            assert await machine.power() is Power.ON
            with trio.fail_after(60):
                line = await machine.dial_tether()
                assert await line.read()
            line.close()
            line = await machine.dial_tether()
            line.close()
            await machine.kill()
            assert await machine.power() is Power.OFF
            await machine.kill()
            with trio.fail_after(10):
                await machine.wait_off()
            await machine.start()
            assert await machine.power() is Power.ON
            await machine.destroy()
            await machine.destroy()
            assert await driver.adopt() == []

    async def test_wait_off_notices_every_end(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            machine = await driver.create(await self.with_disks(driver, self.spec(short_path)))
            await machine.start()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(machine.wait_off)
                await trio.sleep(0.1)
                await self.end_from_outside(short_path, machine.id)
            assert await machine.power() is Power.OFF
            await machine.destroy()

    @abstractmethod
    async def end_from_outside(self, root: Path, machine_id: str) -> None:
        """Power off a machine behind the driver's back."""

    async def test_machines_outlive_the_driver(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            on = await driver.create(await self.with_disks(driver, self.spec(short_path, "on")))
            await on.start()
            await driver.create(await self.with_disks(driver, self.spec(short_path, "off")))
        async with self.open_driver(short_path) as driver:
            found = {machine.id: machine for machine in await driver.adopt()}
            assert {name: await machine.power() for name, machine in found.items()} == {
                "on": Power.ON,
                "off": Power.OFF,
            }
            with trio.fail_after(60):
                line = await found["on"].dial_tether()
                assert await line.read()
            line.close()
            for machine in found.values():
                await machine.destroy()

    async def test_a_machine_that_is_off_cannot_be_dialled(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            machine = await driver.create(await self.with_disks(driver, self.spec(short_path)))
            with pytest.raises(HypervisorError):
                await machine.dial_tether()
            await machine.destroy()


class PluggingContract(ABC):
    """Disks that come and go while a machine runs. The machines of `open_driver` are TakesDisks."""

    @abstractmethod
    def open_driver(self, root: Path) -> AbstractAsyncContextManager[Driver]:
        """See DriverContract."""

    async def with_disks(self, driver: Driver, disks: list[Disk]) -> list[Disk]:
        """Create these disks. A driver whose disks are not files of this host overrides this."""
        for disk in disks:
            disk.path.parent.mkdir(exist_ok=True)
            disk.path.write_bytes(bytes(1 << 20))
        return disks

    @contextmanager
    def refused_disk(self, root: Path) -> Iterator[Disk]:
        """A disk that the hypervisor refuses inside the block. By default, it does not exist."""
        yield Disk(root / "layers/missing", True)

    async def started(self, driver: Driver, root: Path) -> Machine:
        """A running machine that grows, with a writable disk and a read-only disk."""
        disks = await self.with_disks(driver, [Disk(root / "first/upper", False), Disk(root / "layers/first", True)])
        machine = await driver.create(MachineSpec("m1", 256, 1, tuple(disks), grows=True))
        await machine.start()
        return machine

    async def test_disks_come_and_go(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            machine = await self.started(driver, short_path)
            assert isinstance(machine, TakesDisks)
            free = machine.free_disks()
            assert free >= 50
            upper, *layers = await self.with_disks(
                driver,
                [Disk(short_path / "joiner/upper", False), *(Disk(short_path / f"layers/{n}", True) for n in "ab")],
            )
            found = await machine.plug_disks([upper, *layers])
            addresses = [disk.address for disk in (*machine.guest_disks(), *found)]
            assert len(set(addresses)) == 5
            assert machine.spec.more_disks == (upper, *layers)
            assert [machine.plugged_disks()[disk.path].address for disk in (upper, *layers)] == addresses[2:]
            assert machine.free_disks() == free - 3
            await machine.release_disks({upper.path, short_path / "unknown"})
            await machine.release_disks({upper.path})
            assert machine.spec.more_disks == (None, *layers)
            assert machine.free_disks() == free - 2
            # The place is free again, and the same address serves another disk.
            (again,) = await machine.plug_disks([upper])
            assert again.address == found[0].address
        async with self.open_driver(short_path) as driver:
            (adopted,) = await driver.adopt()
            assert isinstance(adopted, TakesDisks)
            assert adopted.spec == machine.spec
            assert adopted.plugged_disks() == machine.plugged_disks()
            await adopted.release_disks([disk.path for disk in (upper, *layers)])
            assert adopted.spec.more_disks == ()
            assert adopted.free_disks() == free
            await adopted.destroy()

    async def test_a_machine_releases_its_own_disks(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            machine = await self.started(driver, short_path)
            assert isinstance(machine, TakesDisks)
            before = machine.guest_disks()
            upper, layer = machine.spec.disks
            for _ in range(2):
                await machine.release_disks({upper.path})
            assert [disk.released for disk in machine.spec.disks] == [True, False]
            assert machine.spec.disks[1] == layer
            assert machine.guest_disks()[1] == before[1]
            # The machine takes the disk again, in another place.
            (again,) = await machine.plug_disks([upper])
            assert again.address not in [disk.address for disk in before]
        async with self.open_driver(short_path) as driver:
            (adopted,) = await driver.adopt()
            assert isinstance(adopted, TakesDisks)
            assert adopted.spec == machine.spec
            await adopted.release_disks({upper.path})
            assert adopted.spec.more_disks == ()
            await adopted.destroy()

    async def test_disks_are_plugged_together_or_not_at_all(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            machine = await self.started(driver, short_path)
            assert isinstance(machine, TakesDisks)
            before, free = machine.spec, machine.free_disks()
            (good,) = await self.with_disks(driver, [Disk(short_path / "joiner/upper", False)])
            with self.refused_disk(short_path) as refused, pytest.raises(HypervisorError):
                await machine.plug_disks([good, refused])
            with pytest.raises(HypervisorError, match="more disks, and"):
                await machine.plug_disks([Disk(short_path / f"layers/{n}", True) for n in range(free + 1)])
            with pytest.raises(HypervisorError, match="already"):
                await machine.plug_disks([before.disks[0]])
            assert machine.spec == before
            await machine.plug_disks([good])
            await machine.destroy()


class ConcurrentPlugging(PluggingContract):
    """Disks and NICs that come and go at the same time. Only a guest that runs releases a NIC."""

    def nic(self, number: int) -> Nic:
        """A NIC on a network of the hypervisor."""
        return Nic(f"02:42:00:00:00:{number:02x}")

    async def test_many_changes_at_once(self, short_path: Path) -> None:
        """The containers of a machine start independently of each other."""
        async with self.open_driver(short_path) as driver:
            machine = await self.started(driver, short_path)
            assert isinstance(machine, TakesDisks)
            assert isinstance(machine, Pluggable)
            layers = await self.with_disks(driver, [Disk(short_path / f"layers/{n}", True) for n in range(4)])
            nics = [self.nic(number) for number in range(4)]
            async with trio.open_nursery() as nursery:
                for layer, nic in zip(layers, nics, strict=True):
                    nursery.start_soon(machine.plug_disks, [layer])
                    nursery.start_soon(machine.plug_nic, nic)
            assert {disk.path for disk in machine.spec.more_disks if disk} == {layer.path for layer in layers}
            assert {nic.mac for nic in machine.spec.more_nics if nic} == {nic.mac for nic in nics}
            async with trio.open_nursery() as nursery:
                for layer, nic in zip(layers, nics, strict=True):
                    nursery.start_soon(machine.release_disks, [layer.path])
                    nursery.start_soon(machine.unplug_nic, nic.mac)
            assert not any((*machine.spec.more_disks, *machine.spec.more_nics))
        async with self.open_driver(short_path) as driver:
            (adopted,) = await driver.adopt()
            assert adopted.spec == machine.spec
            await adopted.destroy()
