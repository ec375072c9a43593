"""What the composition root needs of a hypervisor beyond its driver: the host's network, the connection, the pools of waiting machines."""

import os
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from appliance.config import MOST_VM_CPUS, Config
from appliance.engine.machines.pool import Pool
from appliance.engine.networking.networks import Networks
from appliance.hypervisor import Cloning, Disks, Driver, MachineSpec
from appliance.network.host import HostNetwork
from tether.rpc.bridge import LoopThread

if TYPE_CHECKING:
    from appliance.guest.fast_path import FastPaths

# A container without a memory limit has 2 GiB. The rest is for its guest's kernel and tether. The sizes of larger machines are powers
# of two times this size, so that limits of 4, 8, 16... GiB fit, too.
_DEFAULT_MEMORY_MIB = 2304
_SMALLEST_DEFAULT_MIB = 256


@dataclass(slots=True)
class Machines:
    """A connected driver with everything that the composition root hands to the engine.

    `usual` is the machine of a container without limits of its own. `fast_paths` are there when the guests' own lines are slow.
    """

    driver: Driver
    disks: Disks
    usual: MachineSpec
    pools: list[Pool] = field(default_factory=list)
    fast_paths: "FastPaths | None" = None

    def begin(self, nursery: trio.Nursery) -> None:
        """Prepare machines for the next starts. Called once the machines of the previous daemon are adopted."""
        if isinstance(self.driver, Cloning):
            self.driver.want(self.usual)
        for pool in self.pools:
            nursery.start_soon(pool.run)


class Hosting(ABC):
    """One hypervisor, as the configuration describes it. `has_datastores`: volume stores may be datastores of the hypervisor."""

    has_datastores: bool

    @abstractmethod
    def __init__(self, config: Config) -> None: ...

    @abstractmethod
    def network_host(self) -> HostNetwork:
        """This host's part of the networks. InvalidParameter when the host lacks the rights for it."""

    @abstractmethod
    def connected(self, owner: str) -> AbstractAsyncContextManager[None]:
        """Connect to the hypervisor; the connection lasts until the block ends.

        `owner` identifies this appliance. InvalidParameter, Unavailable or HypervisorError says what is wrong.
        """

    @abstractmethod
    async def machines(self, loop: LoopThread, networks: Networks, nursery: trio.Nursery) -> Machines:
        """Build driver, disks and pools, inside the block of `connected`. `nursery` runs their tasks."""


def usual_machine(config: Config, networks: Networks, host_mib: int | None = None) -> MachineSpec:
    """The machine of a container without limits of its own. `host_mib`: memory of the host that runs the machines, if known.

    A size that the settings do not name is at most half of the host's memory.
    """
    memory = config.vm_memory or _DEFAULT_MEMORY_MIB
    if config.vm_memory is None and host_mib is not None:
        memory = max(min(memory, host_mib // 2), _SMALLEST_DEFAULT_MIB)
    cpus = config.vm_cpus or min(os.cpu_count() or 1, MOST_VM_CPUS)
    return MachineSpec("any", memory, cpus, (), networks.allocator.blank.nic)
