"""`vch update firewall`: opens or closes the ESXi hosts' firewalls for the serial ports of VMs."""

import argparse

from appliance.cli.report import REFUSED, Ended, Report
from appliance.cli.target import opened
from appliance.hypervisor.vsphere.preflight import FIREWALL_RULES, Preflight, PreflightRequest, allows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag("--datacenter", default="", help="Datacenter; required when there is more than one")
    flag("-r", "--compute-resource", default="", help="Cluster or host; required when there is more than one")
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--allow", action="store_true", help=f"Enable the ruleset {FIREWALL_RULES}")
    either.add_argument("--deny", action="store_true", help="Disable the ruleset")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Change each host of the cluster. Ended with REFUSED when there is no such cluster."""
    async with opened(options) as appliances:
        session = appliances.session
        preflight = Preflight(
            appliances, PreflightRequest("", "", options.datacenter, options.compute_resource, "", {}, {}, {}, "")
        )
        await preflight.find_compute()
        for finding in preflight.problems:
            report.finding("problems", finding.setting, finding.text, finding.remedy)
        if preflight.problems:
            raise Ended(REFUSED, "nothing was changed")
        changed = []
        for name, host in await preflight.hosts():
            firewall = await session.look("firewall", host, "configManager.firewallSystem")
            method = firewall.EnableRuleset if options.allow else firewall.DisableRuleset
            await session.change(f"firewall of {name}", method, FIREWALL_RULES)
            lets = allows(await session.look("firewall", firewall, "firewallInfo"))
            changed.append({"host": name, "allowed": lets})
        report.result(
            {"hosts": changed},
            [f"{host['host']}: serial ports are {'allowed' if host['allowed'] else 'blocked'}" for host in changed],
        )
