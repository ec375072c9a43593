"""The driver in memory gives a PCI device to one machine at a time, as real drivers do."""

import pytest
import trio

from appliance.errors import HypervisorError
from appliance.hypervisor import MachineSpec
from appliance.hypervisor.fake import FakeHost
from appliance.hypervisor.fake_passthrough import PassthroughDriver


async def test_a_device_is_in_one_machine() -> None:
    async with trio.open_nursery() as nursery:
        driver = PassthroughDriver(FakeHost(nursery))
        machine = await driver.create(MachineSpec("m1", 256, 1, name="web", pci_devices=("0000:01:00.0",)))
        with pytest.raises(HypervisorError, match="in use by the machine of web"):
            await driver.create(MachineSpec("m2", 256, 1, pci_devices=("0000:01:00.0",)))
        await machine.destroy()
        await driver.create(MachineSpec("m2", 256, 1, pci_devices=("0000:01:00.0",)))
