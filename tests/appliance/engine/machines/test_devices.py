"""Devices of the host, from the create request to the machine."""

from pathlib import Path

import pytest
import trio

from appliance.container.host_config import DeviceRequest, HostConfig
from appliance.engine.machines.devices import check_devices
from appliance.errors import HypervisorError, InvalidParameter, Unsupported
from appliance.hypervisor.fake import FakeDriver, FakeHost
from appliance.hypervisor.fake_passthrough import PassthroughDriver
from tests.appliance.engine.harness import Host, engine

_GPU = HostConfig(device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])])
_PCI = HostConfig(device_requests=[DeviceRequest("cdi", device_ids=["vfio/pci=01:00.0"])])


async def test_the_error_has_dockers_words_and_what_the_hypervisor_offers() -> None:
    async with trio.open_nursery() as nursery:
        host = FakeHost(nursery)
        before = r'^could not select device driver "" with capabilities: \[\[gpu\]\]: '
        with pytest.raises(InvalidParameter, match=f"{before}this hypervisor gives no devices of its hosts"):
            await check_devices(FakeDriver(host), _GPU)
        with pytest.raises(InvalidParameter, match=f"{before}there is 0000:01:00.0$"):
            await check_devices(PassthroughDriver(host), _GPU)
        with pytest.raises(Unsupported, match=r"^PCI device 0000:01:00\.0: this hypervisor gives no devices"):
            await check_devices(FakeDriver(host), _PCI)
        await check_devices(PassthroughDriver(host), _PCI)
        await check_devices(FakeDriver(host), HostConfig())


class _PassthroughHost(Host):
    def driver(self) -> FakeDriver:
        return PassthroughDriver(self.vms, self.machine)


async def test_a_container_gets_its_device_and_no_other_machine_has_it(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        host = _PassthroughHost(nursery)
        async with engine(host, tmp_path) as daemon:
            first = await daemon.create(name="first", host=_PCI)
            second = await daemon.create(name="second", host=_PCI)
            await daemon.start(first)
            assert host.vms.vms[first.id].spec.pci_devices == ("0000:01:00.0",)
            with pytest.raises(HypervisorError, match=r"0000:01:00\.0 is in use by the machine of first"):
                await daemon.start(second)
            await daemon.stop(first)
            await daemon.machine_gone(first)
            await daemon.start(second)
        nursery.cancel_scope.cancel()
