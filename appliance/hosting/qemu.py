"""QEMU on this host: driver, disks, and the pools of waiting machines."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from appliance.config import Config
from appliance.engine.machines.pool import Pool, PoolPlan
from appliance.engine.machines.rehearsal import LocalRehearsal
from appliance.engine.networking.networks import Networks
from appliance.errors import InvalidParameter
from appliance.hosting.contract import Hosting, Machines, usual_machine
from appliance.hypervisor import SOME_SHARES, LocalDisks
from appliance.hypervisor.qemu import QemuDriver, default_pool, has_room, memory_mib
from appliance.network.host import BridgedHostNetwork, HostNetwork, UserModeHostNetwork, may_create_bridges
from tether.rpc.bridge import LoopThread


class QemuHosting(Hosting):
    """Machines are processes of this host."""

    has_datastores = False

    def __init__(self, config: Config) -> None:
        self._config = config

    def network_host(self) -> HostNetwork:
        """See Hosting."""
        config, bridged = self._config, may_create_bridges()
        if config.networking == "bridge" and not bridged:
            raise InvalidParameter("--networking bridge needs the rights of root (CAP_NET_ADMIN) and /dev/net/tun")
        return BridgedHostNetwork(config.bridge) if bridged and config.networking != "user" else UserModeHostNetwork()

    @asynccontextmanager
    async def connected(self, owner: str) -> AsyncIterator[None]:
        """See Hosting: there is no server to connect to."""
        yield

    async def machines(self, loop: LoopThread, networks: Networks, nursery: trio.Nursery) -> Machines:
        """See Hosting."""
        config, blank = self._config, networks.allocator.blank
        usual = usual_machine(config, networks, memory_mib("MemTotal"))
        disks = LocalDisks(config.data_root)
        await disks.prepare()
        rehearsal = LocalRehearsal(loop, config.data_root, disks, blank)
        driver = QemuDriver(
            config.exec_root / "machines",
            config.guest,
            config.accel,
            config.cache,
            nursery,
            rehearsal if config.vm_template else None,
        )
        await driver.connect()
        size = default_pool() if config.vm_pool is None else config.vm_pool
        pools: list[Pool] = []
        if config.vm_template and size:
            sharing = replace(usual, shares=SOME_SHARES)
            pools = [
                Pool(PoolPlan(size, usual), driver, rehearsal, loop, nursery, has_room),
                # One machine with shares is enough: its memory is a full copy, so each further machine would be expensive.
                Pool(PoolPlan(1, sharing, lazy=True), driver, rehearsal, loop, nursery, has_room),
            ]
        return Machines(driver, disks, usual, pools)
