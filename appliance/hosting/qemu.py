"""Machines of this host's QEMU: their driver, their disks, and those that wait for a container."""

from dataclasses import replace

import trio

from appliance.config import Config
from appliance.engine.machines.pool import Pool
from appliance.engine.machines.rehearsal import LocalRehearsal
from appliance.hypervisor import SOME_SHARES, LocalDisks, MachineSpec
from appliance.hypervisor.qemu import QemuDriver, default_pool, has_room
from appliance.network.network_record import Endpoint
from tether.rpc.bridge import LoopThread


async def opened(
    config: Config, loop: LoopThread, blank: Endpoint, usual: MachineSpec, nursery: trio.Nursery
) -> tuple[QemuDriver, LocalDisks, list[Pool]]:
    """A driver that is connected. `blank` is a place on a network that is nobody's, `usual` what a machine is like."""
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
            Pool(size, usual, driver, rehearsal, loop, nursery, has_room),
            # Of those that have volumes one is enough: it has its memory for itself.
            Pool(1, sharing, driver, rehearsal, loop, nursery, has_room, lazy=True),
        ]
    return driver, disks, pools
