"""Which hypervisor, and all that comes with it. Beside `main`, nobody else knows concrete ones."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from appliance.config import Config, parse_volume_store, required
from appliance.engine.machines.pool import Pool
from appliance.engine.networking.networks import Networks
from appliance.errors import InvalidParameter
from appliance.hosting import qemu
from appliance.hypervisor import Cloning, Disks, Driver, MachineSpec
from appliance.network.host import BridgeHost, Host, UserModeHost, may_make_bridges
from appliance.network.network_record import Uplink
from appliance.volume.nfs import NfsStore, is_nfs
from tether.rpc.bridge import LoopThread

if TYPE_CHECKING:
    from appliance.guest.fast_path import FastPaths


@dataclass(slots=True)
class Hosting:
    """Where machines are. `usual` is the machine of a container that asks for nothing special."""

    driver: Driver
    disks: Disks
    usual: MachineSpec
    pools: list[Pool] = field(default_factory=list)
    # Where guests' own lines are slow.
    fast_paths: "FastPaths | None" = None

    def begin(self, nursery: trio.Nursery) -> None:
        """Have machines ready, now that those of before are known."""
        if isinstance(self.driver, Cloning):
            self.driver.want(self.usual)
        for pool in self.pools:
            nursery.start_soon(pool.run)


def host_of(config: Config) -> Host:
    """This host's part of the networks. InvalidParameter when it cannot be what is asked for."""
    bridged = may_make_bridges()
    if config.networking == "bridge" and not bridged:
        raise InvalidParameter("--networking bridge needs the rights of root (CAP_NET_ADMIN) and /dev/net/tun")
    if config.hypervisor == "vsphere":
        if not bridged or config.networking == "user":
            raise InvalidParameter("--hypervisor vsphere needs bridges, and so the rights of root (CAP_NET_ADMIN)")
        interface = required(config.vsphere, "bridge_interface")
        return BridgeHost(config.bridge, Uplink(config.bridge, interface, config.vsphere.quick_port))
    return BridgeHost(config.bridge) if bridged and config.networking != "user" else UserModeHost()


def served_stores(config: Config) -> dict[str, NfsStore]:
    """Volume stores that NFS servers have, by name. InvalidParameter for those that cannot be."""
    found: dict[str, NfsStore] = {}
    stores = [parse_volume_store(text) for text in config.volume_stores]
    for name, place in stores:
        if is_nfs(place):
            try:
                found[name] = NfsStore.parse(place, config.vsphere.tenant)
            except InvalidParameter as error:
                raise InvalidParameter(f"--volume-store {name}: {error}") from error
        elif config.hypervisor != "vsphere":
            raise InvalidParameter(
                f"--volume-store {name}={place}: datastores are vSphere's (nfs://SERVER/PATH is not)"
            )
    names = [name for name, _ in stores]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidParameter(f"--volume-store: there are two of the name {twice}")
    return found


@asynccontextmanager
async def remote(config: Config, owner: str) -> AsyncIterator[tuple[Driver, Disks] | None]:
    """A hypervisor that is elsewhere, as long as the block lasts; None when machines are to be on this host.

    `owner` is who we are: a tenant is one appliance's.
    """
    if config.hypervisor != "vsphere":
        yield None
        return
    # Only now: who has no vSphere does not wait for its types to load.
    from appliance.hosting import vsphere

    async with vsphere.opened(config, owner) as driver:
        yield driver, driver.disks


async def hosting_of(
    config: Config, there: tuple[Driver, Disks] | None, loop: LoopThread, networks: Networks, nursery: trio.Nursery
) -> Hosting:
    """Machines `there`, or on this host."""
    usual = MachineSpec("any", config.vm_memory, config.vm_cpus, (), networks.allocator.blank.nic)
    blank = networks.allocator.blank
    if there is not None:
        from appliance.guest.fast_path import FastPaths
        from appliance.hosting import vsphere

        driver, disks = there
        pools = vsphere.pools(config, driver, loop, blank, usual, nursery)
        fast_paths = FastPaths(config.bridge, config.vsphere.quick_port)
        await nursery.start(fast_paths.run)
        return Hosting(driver, disks, usual, pools, fast_paths)
    driver, disks, pools = await qemu.opened(config, loop, blank, usual, nursery)
    return Hosting(driver, disks, usual, pools)
