"""`vch delete`: removes an appliance with its containers, images, resource pool and folder. Volumes stay, unless --volumes is given."""

import argparse

from appliance.cli.report import REFUSED, Ended, Report
from appliance.cli.target import opened
from appliance.hypervisor.vsphere.appliances import Deployed
from appliance.volume.nfs import is_nfs

_GRACE_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag("name", help="Name or id of the appliance")
    flag("-f", "--force", action="store_true", help="Delete running containers, too: their VMs are powered off hard")
    flag("--volumes", action="store_true", help="Delete volumes, too: their data is lost")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Ended with REFUSED, and no change made, when containers are running and --force was not given."""
    async with opened(options) as appliances:
        appliance = await appliances.named(options.name)
        machines = await appliances.containers(appliance)
        running = [name for _, name, on in machines if on]
        if running and not options.force:
            raise Ended(
                REFUSED,
                f"{appliance.name} has containers that are running: {', '.join(sorted(running))}; stop them, or use --force",
            )
        # The appliance goes first, since vchd would restart containers.
        if appliance.power != "poweredOff":
            report.step(f"Shutting {appliance.name} down")
            await appliances.power_off(appliance.reference, _GRACE_SECONDS)
        folders = await appliances.folders(appliance)
        for reference, name, on in await appliances.containers(appliance, waiting=True):
            report.step(f"Removing {name}")
            if on:
                await appliances.power_off(reference)
            await appliances.keep_disks(reference, folders)
            await appliances.destroy(reference)
        kept = await appliances.remove_files(appliance, volumes=options.volumes)
        report.step(f"Removing {appliance.name}")
        await appliances.destroy(appliance.reference)
        await appliances.remove_extension(appliance.tenant)
        if (group := appliance.values.get("vm-group")) and appliance.pool is not None:
            await appliances.group(appliance.pool, group).remove_unless_used()
        if (
            appliance.pool is not None
            and await appliances.session.look("pool", appliance.pool, "name") == appliance.name
        ):
            await appliances.remove_pool(appliance.pool)
        if appliance.folder is not None:
            await appliances.remove_folder(appliance.folder)
        lines = [f"{appliance.name} is deleted"]
        # An operator's host can seldom mount these, so that their data stays.
        served = [place for place in _places(appliance) if is_nfs(place)]
        if served:
            lines += ["The volumes of the tenant on NFS servers stay there:", *(f"  {place}" for place in served)]
        if kept:
            lines += [
                f"These volumes stay, for the next appliance of the tenant {appliance.tenant}:",
                *(f"  {path}" for path in kept),
            ]
        report.result({"name": appliance.name, "volumes_kept": kept, "servers_kept": served}, lines)


def _places(appliance: Deployed) -> list[str]:
    """The datastores and URLs of the volume stores."""
    return [text.partition("=")[2] for text in appliance.values.get("volume-stores", "").split(",")]
