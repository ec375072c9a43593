"""The tests that every driver passes. A driver's test class inherits them and implements `open_driver` and `end_from_outside`."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from appliance.errors import HypervisorError
from appliance.hypervisor import Disk, Driver, MachineSpec, Power, Usage, why_no_shares


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
            with trio.fail_after(1):
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
            with trio.fail_after(1):
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
