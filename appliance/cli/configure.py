"""`vch configure`: changes settings of an appliance and boots it. If the API does not come up, the old settings return."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import trio

from appliance.cli.options import add_setting_arguments, handed_on
from appliance.cli.plan import as_option
from appliance.cli.reach import docker_host, known_address, reported_address, wait_served
from appliance.cli.report import REFUSED, TOO_LATE, USAGE, Ended, Report
from appliance.cli.target import opened, password_of
from appliance.config.table import PROPERTIES, PROPERTY
from appliance.errors import InvalidParameter
from appliance.hypervisor.vsphere.appliances import Appliances, Deployed
from appliance.hypervisor.vsphere.session import Session
from appliance.provision.certificates import Authority, write_private, write_public
from appliance.provision.properties import settings_of
from appliance.provision.reader import Malformed

GRACE_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="Name or id of the appliance")
    add_setting_arguments(parser)
    flag = parser.add_argument_group("Procedure").add_argument
    flag(
        "--reset",
        action="append",
        default=[],
        metavar="PROPERTY",
        help="Set a property back to its default; vch inspect shows the names",
    )
    flag("--dry-run", action="store_true", help="Show what would change, change nothing")
    flag(
        "--timeout",
        type=float,
        default=600,
        metavar="SECONDS",
        help="How long to wait until the appliance serves its API (default: 600)",
    )


async def run(options: argparse.Namespace, report: Report) -> None:
    """Containers keep running meanwhile. Ended with REFUSED, and no change made, when the new settings are malformed."""
    folder: Path = options.cert_path or Path(options.name)
    async with opened(options) as appliances:
        appliance = await appliances.named(options.name)
        changes = await _changes(options, appliance, appliances, folder)
        if not changes:
            raise Ended(USAGE, "no option changes a setting")
        for key in sorted(changes):
            shown = "(secret)" if PROPERTY[key].secret else changes[key].partition("\n")[0] or "(default)"
            report.step(f"  {key}: {shown}")
        if changes.get("tls-verify") == "false":
            report.finding(
                "warnings",
                "--no-tlsverify",
                "EVERY CLIENT THAT REACHES THE API HAS FULL ACCESS to all containers and their data",
                "leave the option out",
            )
        _check(appliance, changes, report)
        if options.dry_run:
            report.result(
                {"name": appliance.name, "changed": False, "properties": sorted(changes)},
                ["nothing was changed (--dry-run)"],
            )
            return
        if "tls-key" in changes and not options.tls_key:
            write_public(folder / "server-cert.pem", changes["tls-cert"].encode())
            write_private(folder / "server-key.pem", changes["tls-key"].encode())
        await _boot_with(appliances, appliance, changes, folder, options.timeout, report)
        now = await appliances.named(appliance.reference._moId)
        report.result(
            {"name": appliance.name, "changed": True, "properties": sorted(changes), "docker_host": docker_host(now)},
            [f"{appliance.name} is configured: {docker_host(now)}"],
        )


async def _changes(
    options: argparse.Namespace, appliance: Deployed, appliances: Appliances, folder: Path
) -> dict[str, str]:
    server = appliances.session.server
    wanted = handed_on(options)
    if options.no_tlsverify:
        wanted["tls-verify"] = "false"
    # The certificate of vSphere may have changed: keep the thumbprint that this command has just verified.
    if server.thumbprint:
        wanted["thumbprint"] = server.thumbprint
    if options.tls_cname:
        if options.tls_cert:
            raise InvalidParameter("--tls-cname is for a certificate of vch's own CA: leave out --tls-server-cert")
        authority = Authority(folder, appliance.name, must_be=True)
        names = [options.tls_cname, known_address({**appliance.values, **wanted})]
        wanted["tls-cert"], wanted["tls-key"] = authority.sign_server(list(dict.fromkeys(filter(None, names))))
    for key in options.reset:
        if key not in PROPERTY:
            raise InvalidParameter(
                f"--reset {key}: no such property; the properties are {', '.join(each.key for each in PROPERTIES)}"
            )
        wanted[key] = PROPERTY[key].default or ""
    changes = {
        key: value for key, value in wanted.items() if value != appliance.values.get(key, PROPERTY[key].default or "")
    }
    if options.ops_user:
        password = password_of(options.ops_password_file, "VCH_OPS_PASSWORD", options.ops_user)
        # An account that cannot log in would leave the appliance without vSphere.
        async with Session.open(replace(server, user=options.ops_user, password=password)):
            changes |= {"vsphere-user": options.ops_user, "vsphere-password": password, "vsphere-login": "password"}
    elif options.ops_extension:
        # `_boot_with` acquires the ticket just before the boot, since tickets expire soon.
        changes |= {"vsphere-login": "extension", "vsphere-ticket": ""}
    return changes


def _check(appliance: Deployed, changes: Mapping[str, str], report: Report) -> None:
    values = {**appliance.values, **changes}
    # The appliance keeps its secrets, and the properties no longer hold them: leave them out of the check.
    values["vsphere-password"] = values.get("vsphere-password") or "-"
    if not values.get("tls-key"):
        values.pop("tls-cert", None)
    try:
        settings_of(values)
    except Malformed as error:
        for problem in error.problems:
            finding = as_option(problem)
            report.finding("problems", finding.setting, finding.text, finding.remedy)
        raise Ended(REFUSED, f"{appliance.name} is unchanged: see the problems above") from error


async def _boot_with(
    appliances: Appliances,
    appliance: Deployed,
    changes: Mapping[str, str],
    folder: Path,
    seconds: float,
    report: Report,
) -> None:
    report.step(f"Shutting {appliance.name} down; its containers keep running")
    if appliance.power != "poweredOff":
        await appliances.power_off(appliance.reference, GRACE_SECONDS)
    if group := changes.get("vm-group"):
        await appliances.group(appliance.pool, group).add(appliance.reference)
    if changes.get("vsphere-login") == "extension":
        changes = {**changes, "vsphere-ticket": await appliances.ticket()}
    await appliances.set_values(appliance, changes)
    if not await boot(appliances, appliance, {**appliance.values, **changes}, folder, seconds, report):
        report.step("The API does not answer; restoring the old settings")
        await appliances.power_off(appliance.reference, GRACE_SECONDS)
        changed = await appliances.named(appliance.reference._moId)
        await appliances.set_values(changed, {key: appliance.values.get(key, "") for key in changes})
        served = await boot(appliances, appliance, appliance.values, folder, seconds, report)
        text = (
            "the old settings are back"
            if served
            else "the API does not answer with the old settings either: see its console"
        )
        raise Ended(TOO_LATE, f"{appliance.name} does not come up with these settings; {text}")
    secrets = [key for key in changes if PROPERTY[key].secret and changes[key]]
    if secrets:
        await appliances.set_values(await appliances.named(appliance.reference._moId), dict.fromkeys(secrets, ""))


async def boot(
    appliances: Appliances, appliance: Deployed, values: Mapping[str, str], folder: Path, seconds: float, report: Report
) -> bool:
    """Power the appliance on. Whether it serves its API within `seconds`."""
    report.step("Powering it on")
    await appliances.power_on(appliance.reference)
    with trio.move_on_after(seconds):
        address = known_address(values) or await reported_address(appliances, appliance.reference)
        report.step(f"Waiting for the API at {address}")
        await wait_served(address, values, folder)
        return True
    return False
