"""The CPUs and the memory that the hosts behind the resource pool have."""

import logging

import trio
from pyVmomi import vim

from appliance.errors import VchError
from appliance.hypervisor.driver import Capacity
from appliance.hypervisor.vsphere.session import Session

log = logging.getLogger(__name__)
# Hosts join a cluster, and leave it.
_FRESH_SECONDS = 60.0
_CPUS, _MEMORY = "summary.hardware.numCpuThreads", "summary.hardware.memorySize"


class HostCapacity:
    """`otherwise` counts while no host can be read: the account may lack the right to see hosts."""

    def __init__(self, session: Session, pool: vim.ResourcePool, otherwise: Capacity) -> None:
        self._session = session
        self._pool = pool
        self._found = otherwise
        self._until = -1.0

    async def read(self) -> Capacity:
        """The largest host's CPUs, and the largest host's memory: a VM runs on one host. At most a minute old."""
        if trio.current_time() > self._until:
            self._until = trio.current_time() + _FRESH_SECONDS
            try:
                await self._read()
            except VchError as error:
                log.warning("the hosts' CPUs and memory cannot be read: %s", error)
        return self._found

    async def _read(self) -> None:
        compute = await self._session.look("hosts", self._pool, "owner")
        hosts = await self._session.look("hosts", compute, "host") or ()
        found = (await self._session.properties("hosts", list(hosts), [_CPUS, _MEMORY])).values()
        cpus = max((int(host[_CPUS]) for host in found if host.get(_CPUS)), default=0)
        memory = max((int(host[_MEMORY]) for host in found if host.get(_MEMORY)), default=0)
        if cpus and memory:
            self._found = Capacity(cpus, memory)
