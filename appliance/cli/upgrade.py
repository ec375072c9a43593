"""`vch upgrade`: replaces the system disk of an appliance. A snapshot allows the rollback."""

import argparse
import re
from pathlib import Path

from appliance.cli.configure import GRACE_SECONDS, boot
from appliance.cli.package import OvaFile
from appliance.cli.report import REFUSED, TOO_LATE, Ended, Report
from appliance.cli.target import opened
from appliance.hypervisor.vsphere.appliances import Appliances, Deployed
from appliance.hypervisor.vsphere.upgrades import Upgrades


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag("name", help="Name or id of the appliance")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ova", type=Path, metavar="FILE", help="OVA file of the new version")
    what.add_argument(
        "--rollback", action="store_true", help="Go back to the state before the last upgrade, with its data"
    )
    what.add_argument("--commit", action="store_true", help="Remove the snapshot: there is no rollback after that")
    flag("-f", "--force", action="store_true", help="Upgrade even to the same version")
    flag("--cert-path", type=Path, metavar="FOLDER", help="Folder of certificates (default: ./NAME)")
    flag(
        "--timeout",
        type=float,
        default=600,
        metavar="SECONDS",
        help="How long to wait until the appliance serves its API (default: 600)",
    )


async def run(options: argparse.Namespace, report: Report) -> None:
    """Containers keep running meanwhile. When the new version does not serve its API, the old one is restored: Ended with TOO_LATE."""
    folder: Path = options.cert_path or Path(options.name)
    package = OvaFile(options.ova) if options.ova is not None else None
    async with opened(options) as appliances:
        appliance = await appliances.named(options.name)
        upgrades = Upgrades(appliances, appliance)
        if options.commit:
            await upgrades.commit()
            report.result(
                {"name": appliance.name, "version": appliance.version},
                [f"{appliance.name} keeps the version {appliance.version}"],
            )
        elif package is None:
            if await upgrades.previous() is None:
                raise Ended(REFUSED, f"{appliance.name} has no snapshot to roll back to")
            await _off(appliances, appliance, report)
            version = (await upgrades.roll_back()).version
            await _back(appliances, appliance, folder, options.timeout, report)
            report.result(
                {"name": appliance.name, "version": version}, [f"{appliance.name} has the version {version} again"]
            )
        else:
            await _upgrade(appliances, appliance, upgrades, package, options, folder, report)


async def _off(appliances: Appliances, appliance: Deployed, report: Report) -> None:
    report.step(f"Shutting {appliance.name} down; its containers keep running")
    if appliance.power != "poweredOff":
        await appliances.power_off(appliance.reference, GRACE_SECONDS)


async def _back(appliances: Appliances, appliance: Deployed, folder: Path, seconds: float, report: Report) -> None:
    if not await boot(appliances, appliance, appliance.values, folder, seconds, report):
        raise Ended(TOO_LATE, f"{appliance.name} is restored, but its API does not answer: see its console")


async def _upgrade(
    appliances: Appliances,
    appliance: Deployed,
    upgrades: Upgrades,
    package: OvaFile,
    options: argparse.Namespace,
    folder: Path,
    report: Report,
) -> None:
    version = version_of(package)
    if version == appliance.version and not options.force:
        raise Ended(REFUSED, f"{appliance.name} already has the version {version}; use --force to upgrade anyway")
    await _off(appliances, appliance, report)
    report.step("Creating a snapshot")
    await upgrades.begin()
    try:
        report.step(f"Uploading {options.ova.name}")
        await upgrades.swap(package, version, report.progress)
    except Exception:
        report.step("The upgrade failed; restoring the old version")
        await upgrades.roll_back()
        await _back(appliances, appliance, folder, options.timeout, report)
        raise
    if not await boot(appliances, appliance, appliance.values, folder, options.timeout, report):
        report.step("The API does not answer; restoring the old version")
        await appliances.power_off(appliance.reference, GRACE_SECONDS)
        await upgrades.roll_back()
        await _back(appliances, appliance, folder, options.timeout, report)
        raise Ended(
            TOO_LATE, f"{appliance.name} did not come up with {version}; it has the version {appliance.version} again"
        )
    lines = [
        f"{appliance.name} now has the version {version} (before: {appliance.version}). To keep it:",
        f"    vch upgrade {appliance.name} --commit",
        "To go back:",
        f"    vch upgrade {appliance.name} --rollback",
    ]
    report.result({"name": appliance.name, "version": version, "previous": appliance.version}, lines)


def version_of(package: OvaFile) -> str:
    """The version in the descriptor. Ended with REFUSED when there is none."""
    found = re.search(r"<Version>([A-Za-z0-9.+~-]{1,40})</Version>", package.descriptor)
    if found is None:
        raise Ended(REFUSED, "--ova: the descriptor has no version")
    return found[1]
