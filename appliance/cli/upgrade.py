"""`vch upgrade`: a newer system disk under the same appliance, with a way back."""

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
    flag("name", help="of the appliance, or its id")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ova", type=Path, help="what it is to become")
    what.add_argument(
        "--rollback", action="store_true", help="go back to what it was before the last upgrade, data and all"
    )
    what.add_argument("--commit", action="store_true", help="give up the way back, and free its room")
    flag("-f", "--force", action="store_true", help="to the version that it is already, too")
    flag("--cert-path", type=Path, help="the folder of certificates, ./NAME")
    flag("--timeout", type=float, default=600, metavar="SECONDS", help="for the appliance to come up again (600)")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Containers go on meanwhile. If it does not come up, what was is put back, and Ended says so."""
    folder: Path = options.cert_path or Path(options.name)
    package = OvaFile(options.ova) if options.ova is not None else None
    async with opened(options) as appliances:
        one = await appliances.named(options.name)
        upgrades = Upgrades(appliances, one)
        if options.commit:
            await upgrades.commit()
            report.result({"name": one.name, "version": one.version}, [f"{one.name} stays at {one.version}"])
        elif package is None:
            if await upgrades.previous() is None:
                raise Ended(REFUSED, f"{one.name} has nothing to go back to")
            await _off(appliances, one, report)
            version = (await upgrades.roll_back()).version
            await _back(appliances, one, folder, options.timeout, report)
            report.result({"name": one.name, "version": version}, [f"{one.name} is {version} again"])
        else:
            await _upgrade(appliances, one, upgrades, package, options, folder, report)


async def _off(appliances: Appliances, one: Deployed, report: Report) -> None:
    report.step(f"Shutting {one.name} down; its containers go on")
    if one.power != "poweredOff":
        await appliances.power_off(one.reference, GRACE_SECONDS)


async def _back(appliances: Appliances, one: Deployed, folder: Path, seconds: float, report: Report) -> None:
    if not await boot(appliances, one, one.values, folder, seconds, report):
        raise Ended(TOO_LATE, f"{one.name} is what it was, but does not answer: its console says more")


async def _upgrade(
    appliances: Appliances,
    one: Deployed,
    upgrades: Upgrades,
    package: OvaFile,
    options: argparse.Namespace,
    folder: Path,
    report: Report,
) -> None:
    version = version_of(package)
    if version == one.version and not options.force:
        raise Ended(REFUSED, f"{one.name} is {version} already (--force)")
    await _off(appliances, one, report)
    report.step("Making a snapshot")
    await upgrades.begin()
    try:
        report.step(f"Uploading {options.ova.name}")
        await upgrades.swap(package, version, report.progress)
    except Exception:
        report.step("It failed; what was is put back")
        await upgrades.roll_back()
        await _back(appliances, one, folder, options.timeout, report)
        raise
    if not await boot(appliances, one, one.values, folder, options.timeout, report):
        report.step("It does not answer; what was is put back")
        await appliances.power_off(one.reference, GRACE_SECONDS)
        await upgrades.roll_back()
        await _back(appliances, one, folder, options.timeout, report)
        raise Ended(TOO_LATE, f"{one.name} did not come up as {version}; it is {one.version} again")
    lines = [
        f"{one.name} is {version}, and was {one.version}. When it does what it should:",
        f"    vch upgrade {one.name} --commit",
        "When it does not:",
        f"    vch upgrade {one.name} --rollback",
    ]
    report.result({"name": one.name, "version": version, "previous": one.version}, lines)


def version_of(package: OvaFile) -> str:
    """What its descriptor says."""
    found = re.search(r"<Version>([A-Za-z0-9.+~-]{1,40})</Version>", package.descriptor)
    if found is None:
        raise Ended(REFUSED, "--ova: its descriptor tells no version")
    return found[1]
