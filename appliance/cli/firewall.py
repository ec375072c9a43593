"""`vch update firewall`: whether hosts let machines' serial ports out to the appliance."""

import argparse

from appliance.cli.report import REFUSED, Ended, Report
from appliance.cli.target import opened
from appliance.hypervisor.vsphere.preflight import FIREWALL_RULES, Preflight, PreflightRequest, allows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag("--datacenter", default="")
    flag("-r", "--compute-resource", default="", help="the cluster or host")
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--allow", action="store_true", help=f"turn the rules {FIREWALL_RULES} on")
    either.add_argument("--deny", action="store_true", help="turn them off")


async def run(options: argparse.Namespace, report: Report) -> None:
    """For each host of the cluster. Ended when there is none of that name."""
    async with opened(options) as appliances:
        session = appliances.session
        look = Preflight(
            appliances, PreflightRequest("", "", options.datacenter, options.compute_resource, "", {}, {}, {}, "")
        )
        await look.find_compute()
        for one in look.problems:
            report.finding("problems", one.setting, one.text, one.remedy)
        if look.problems:
            raise Ended(REFUSED, "nothing was changed")
        changed = []
        for name, host in await look.hosts():
            firewall = await session.look("firewall", host, "configManager.firewallSystem")
            method = firewall.EnableRuleset if options.allow else firewall.DisableRuleset
            await session.change(f"firewall of {name}", method, FIREWALL_RULES)
            lets = allows(await session.look("firewall", firewall, "firewallInfo"))
            changed.append({"host": name, "allowed": lets})
        report.result(
            {"hosts": changed},
            [f"{one['host']}: serial ports are {'' if one['allowed'] else 'not '}let out" for one in changed],
        )
