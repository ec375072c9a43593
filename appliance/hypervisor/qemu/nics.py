"""NICs of a machine that runs, through its monitor."""

import os

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import Forward, Nic
from appliance.hypervisor.qemu.command import card_device, forward_command, netdev_of, unforward_command
from appliance.hypervisor.qemu.monitor import Monitor
from appliance.hypervisor.qemu.taps import open_tap


async def plug(monitor: Monitor, place: int, nic: Nic) -> None:
    """Add a NIC at a free place; the guest sees it some moments later."""
    tap = ""
    if nic.bridge:
        fd, tap = open_tap(nic.bridge, isolated=nic.isolated)
        try:
            await monitor.execute("getfd", {"fdname": tap}, fd=fd)
        finally:
            os.close(fd)
    await monitor.execute("netdev_add", netdev_of(place, nic, tap))
    try:
        await monitor.execute("device_add", card_device(place, nic))
    except HypervisorError:
        await monitor.execute("netdev_del", {"id": f"net{place}"})
        raise


async def set_forwards(monitor: Monitor, place: int, before: tuple[Forward, ...], wanted: tuple[Forward, ...]) -> None:
    """Change which ports of the host lead to a card."""
    for gone in before:
        if gone not in wanted:
            # It answers in words in any case.
            await monitor.execute("human-monitor-command", {"command-line": unforward_command(place, gone)})
    for forward in wanted:
        if forward not in before:
            said = await monitor.execute("human-monitor-command", {"command-line": forward_command(place, forward)})
            if said:
                raise HypervisorError(str(said).strip())
