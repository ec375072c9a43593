"""What a hypervisor offers of its host's devices."""

import trio

from appliance.hypervisor import TakesPciDevices, offered_devices, takes_pci_devices
from appliance.hypervisor.fake import FakeDriver, FakeHost
from appliance.hypervisor.fake_passthrough import PassthroughDriver
from appliance.hypervisor.vsphere.driver import VsphereDriver


async def test_a_driver_says_whether_it_takes_devices() -> None:
    async with trio.open_nursery() as nursery:
        host = FakeHost(nursery)
        assert not takes_pci_devices(FakeDriver(host))
        assert offered_devices(FakeDriver(host)) == "this hypervisor gives no devices of its hosts to containers"
        assert takes_pci_devices(PassthroughDriver(host))
        assert PassthroughDriver(host).ready_pci_devices() == ["0000:01:00.0"]
        assert offered_devices(PassthroughDriver(host)) == "there is 0000:01:00.0"


def test_vsphere_takes_none() -> None:
    assert not issubclass(VsphereDriver, TakesPciDevices)
