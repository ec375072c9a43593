"""NICs of a running machine, through its monitor."""

import os

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import Forward, Nic
from appliance.hypervisor.qemu.command import forward_command, netdev_of, nic_device, unforward_command
from appliance.hypervisor.qemu.monitor import Monitor
from appliance.hypervisor.qemu.taps import open_tap


async def plug(monitor: Monitor, place: int, nic: Nic) -> None:
    """Add a NIC with a free index; the guest sees it some moments later."""
    tap = ""
    if nic.bridge:
        fd, tap = open_tap(nic.bridge, isolated=nic.isolated)
        try:
            await monitor.execute("getfd", {"fdname": tap}, fd=fd)
        finally:
            os.close(fd)
    await monitor.execute("netdev_add", netdev_of(place, nic, tap))
    try:
        await monitor.execute("device_add", nic_device(place, nic))
    except HypervisorError:
        await monitor.execute("netdev_del", {"id": f"net{place}"})
        raise


async def set_forwards(monitor: Monitor, place: int, before: tuple[Forward, ...], wanted: tuple[Forward, ...]) -> None:
    """Change the forwards of a NIC. HypervisorError when QEMU refuses a forward."""
    for gone in before:
        if gone not in wanted:
            # The answer is a text in any case, so it is ignored.
            await monitor.execute("human-monitor-command", {"command-line": unforward_command(place, gone)})
    for forward in wanted:
        if forward not in before:
            answer = await monitor.execute("human-monitor-command", {"command-line": forward_command(place, forward)})
            if answer:
                raise HypervisorError(str(answer).strip())
