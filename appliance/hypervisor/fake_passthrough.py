"""A driver in memory whose machines can have one PCI device of the host, for tests."""

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import MachineSpec
from appliance.hypervisor.fake import FakeDriver, FakeMachine


class PassthroughDriver(FakeDriver):
    """A driver that is also TakesPciDevices."""

    async def create(self, spec: MachineSpec) -> FakeMachine:
        for vm in self._host.vms.values():
            if vm.spec.id != spec.id and set(vm.spec.pci_devices) & set(spec.pci_devices):
                raise HypervisorError(f"PCI device {spec.pci_devices[0]} is in use by the machine of {vm.spec.name}")
        return await super().create(spec)

    def ready_pci_devices(self) -> list[str]:
        """See TakesPciDevices."""
        return ["0000:01:00.0"]

    def offered_pci_devices(self) -> str:
        """See TakesPciDevices."""
        return "there is 0000:01:00.0"
