"""What every driver must do. A driver's test class inherits this and gives `open_driver`."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from appliance.errors import HypervisorError
from appliance.hypervisor import Disk, Driver, MachineSpec, Power


class DriverContract(ABC):
    @abstractmethod
    def open_driver(self, root: Path) -> AbstractAsyncContextManager[Driver]:
        """A connected driver that keeps its state below `root`; opened twice it finds its machines again."""

    def spec(self, root: Path, name: str = "m1") -> MachineSpec:
        disk = root / f"{name}.disk"
        disk.write_bytes(bytes(1 << 20))
        return MachineSpec(name, 256, 1, (Disk(disk, False),))

    async def with_disks(self, driver: Driver, spec: MachineSpec) -> MachineSpec:
        """The spec, once its disks are there: where they are no files, a driver's test makes them."""
        return spec

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

    async def test_wait_off_notices_who_ever_ended_it(self, short_path: Path) -> None:
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
        """End a machine behind the driver's back."""

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
