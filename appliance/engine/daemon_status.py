"""What `docker info` and `docker version` show of the hypervisor and of the engine's queues and quota."""

from appliance.engine.machines.provisioner import MachineProvisioner
from appliance.engine.quota import Quota
from appliance.hypervisor import Capacity, Driver


class DaemonStatus:
    def __init__(self, driver: Driver, provisioner: MachineProvisioner, quota: Quota) -> None:
        self._driver = driver
        self._provisioner = provisioner
        self._quota = quota

    def hypervisor(self) -> dict[str, str]:
        """Its name (`Driver`), its `Version`, and facts by their titles."""
        return self._driver.describe()

    async def capacity(self) -> Capacity:
        """The CPUs and the memory that a container can have."""
        return await self._driver.capacity()

    async def status(self) -> dict[str, str]:
        """Facts by their titles: the hypervisor's, waiting machines, queued starts, the storage quota."""
        return self._driver.describe() | self._provisioner.facts() | await self._quota.facts()
