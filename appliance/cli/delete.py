"""`vch delete`: an appliance with its containers, images, pool and folder; volumes stay unless they are to go too."""

import argparse

from appliance.cli.report import REFUSED, Ended, Report
from appliance.cli.target import opened
from appliance.hypervisor.vsphere.appliances import Deployed
from appliance.volume.nfs import is_nfs

_GRACE_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag("name", help="of the appliance, or its id")
    flag(
        "-f", "--force", action="store_true", help="with containers that are running: they are powered off as they are"
    )
    flag("--volumes", action="store_true", help="volumes, too: all that is in them is lost")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Ended, with REFUSED and nothing done, when containers are running and nobody said --force."""
    async with opened(options) as appliances:
        one = await appliances.named(options.name)
        machines = await appliances.containers(one)
        running = [name for _, name, on in machines if on]
        if running and not options.force:
            raise Ended(
                REFUSED,
                f"{one.name} has containers that are running: {', '.join(sorted(running))}; stop them, or say --force",
            )
        # First who would start machines anew.
        if one.power != "poweredOff":
            report.step(f"Shutting {one.name} down")
            await appliances.power_off(one.reference, _GRACE_SECONDS)
        folders = await appliances.folders(one)
        for reference, name, on in await appliances.containers(one, waiting=True):
            report.step(f"Removing {name}")
            if on:
                await appliances.power_off(reference)
            await appliances.keep_disks(reference, folders)
            await appliances.destroy(reference)
        kept = await appliances.remove_files(one, volumes=options.volumes)
        report.step(f"Removing {one.name}")
        await appliances.destroy(one.reference)
        await appliances.remove_extension(one.tenant)
        if (group := one.values.get("vm-group")) and one.pool is not None:
            await appliances.group(one.pool, group).remove_unless_used()
        if one.pool is not None and await appliances.session.look("pool", one.pool, "name") == one.name:
            await appliances.remove_pool(one.pool)
        if one.folder is not None:
            await appliances.remove_folder(one.folder)
        lines = [f"{one.name} is gone"]
        # Where an operator is they can seldom be mounted.
        served = [place for place in _places(one) if is_nfs(place)]
        if served:
            lines += ["What the tenant has on NFS servers stays there:", *(f"  {place}" for place in served)]
        if kept:
            lines += [
                f"Volumes that are still there, for a tenant {one.tenant} to come:",
                *(f"  {path}" for path in kept),
            ]
        report.result({"name": one.name, "volumes_kept": kept, "servers_kept": served}, lines)


def _places(one: Deployed) -> list[str]:
    """Of its volume stores."""
    return [text.partition("=")[2] for text in one.values.get("volume-stores", "").split(",")]
