"""What `docker info` and `docker version` show of the hypervisor and of the engine's queues and quota."""

from collections.abc import Callable

import trio

from appliance.container.devices import cdi_name
from appliance.engine.machines.provisioner import MachineProvisioner
from appliance.engine.quota import Quota
from appliance.hypervisor import Capacity, Driver, TakesPciDevices


class DaemonStatus:
    def __init__(self, driver: Driver, provisioner: MachineProvisioner, quota: Quota) -> None:
        self._driver = driver
        self._provisioner = provisioner
        self._quota = quota
        self._included: list[Callable[[], dict[str, str]]] = []

    def include(self, facts: Callable[[], dict[str, str]]) -> None:
        """Show the facts of a further part of the daemon, too."""
        self._included.append(facts)

    def hypervisor(self) -> dict[str, str]:
        """Its name (`Driver`), its `Version`, and facts by their titles."""
        return self._driver.describe()

    async def capacity(self) -> Capacity:
        """The CPUs and the memory that a container can have."""
        return await self._driver.capacity()

    async def devices(self) -> list[str]:
        """The CDI names of the host's devices that a container can have."""
        if not isinstance(self._driver, TakesPciDevices):
            return []
        return [cdi_name(address) for address in await trio.to_thread.run_sync(self._driver.ready_pci_devices)]

    async def status(self) -> dict[str, str]:
        """Facts by their titles: the hypervisor's, waiting machines, queued starts, the storage quota."""
        found = self._driver.describe() | self._provisioner.facts() | await self._quota.facts()
        for facts in self._included:
            found |= facts()
        return found
