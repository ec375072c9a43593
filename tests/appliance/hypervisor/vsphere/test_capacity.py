"""The CPUs and the memory of the hosts behind the resource pool."""

import pytest
from pyVmomi import vim

from appliance.hypervisor import Capacity
from appliance.hypervisor.vsphere.capacity import HostCapacity
from appliance.hypervisor.vsphere.inventory import Names, find
from appliance.hypervisor.vsphere.session import Session
from tests.live.vsphere.simulator import Simulator, server_of

_NONE = Capacity(1, 1)


async def test_the_capacity_is_that_of_the_largest_host(simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    async with Session.open(server_of(simulator)) as session:
        pool = (await find(session, Names("tenant", bridge="VM Network"))).pool
        found = await HostCapacity(session, pool, _NONE).read()
        compute = await session.look("hosts", pool, "owner")
        paths = ["summary.hardware.numCpuThreads", "summary.hardware.memorySize"]
        hosts = await session.properties("hosts", await session.look("hosts", compute, "host"), paths)
        assert found == Capacity(*(max(host[path] for host in hosts.values()) for path in paths))
        assert found != _NONE
        # While nothing can be read, the last known values count.
        other = HostCapacity(session, vim.ResourcePool("resgroup-none", session.stub), _NONE)
        assert await other.read() == _NONE
        assert "the hosts' CPUs and memory cannot be read" in caplog.text
