"""`vch ls` and `vch inspect`."""

import argparse
import shlex
from collections.abc import Sequence

from appliance.cli.options import words_of
from appliance.cli.reach import docker_host
from appliance.cli.report import Report, table
from appliance.cli.target import opened
from appliance.config.table import PROPERTY
from appliance.hypervisor.vsphere.appliances import Deployed


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="Print names only")


async def run_list(options: argparse.Namespace, report: Report) -> None:
    """List every appliance that the account can see."""
    async with opened(options) as appliances:
        found = await appliances.all()
        rows, values = [], []
        for appliance in found:
            counted = _counted(await appliances.containers(appliance))
            host = docker_host(appliance)
            rows.append(
                (
                    appliance.reference._moId,
                    appliance.name,
                    appliance.tenant,
                    appliance.version,
                    appliance.power,
                    host,
                    f"{counted['running']} of {counted['all']}",
                )
            )
            values.append({**_facts(appliance), "containers": counted})
        if options.quiet:
            report.result(values, [appliance.name for appliance in found])
        else:
            report.result(values, table(("ID", "NAME", "TENANT", "VERSION", "POWER", "DOCKER_HOST", "RUNNING"), rows))


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="Name or id of the appliance")
    parser.add_argument(
        "--conf", action="store_true", help="Print the vch create command that would deploy the same appliance"
    )


async def run_inspect(options: argparse.Namespace, report: Report) -> None:
    """Show an appliance: its place, its API and its settings, without secrets."""
    async with opened(options) as appliances:
        appliance = await appliances.named(options.name)
        counted = _counted(await appliances.containers(appliance))
        shown = {
            key: value
            for key, value in appliance.values.items()
            if value and key in PROPERTY and not PROPERTY[key].secret
        }
        if options.conf:
            words = ["vch", "create", "--target", options.target, "--user", options.user, "--name", appliance.name]
            for key, value in shown.items():
                if value != PROPERTY[key].default:
                    words += words_of(key, value)
            if shown.get("tls-verify") == "false":
                words.append("--no-tlsverify")
            report.result({"options": words[2:]}, [shlex.join(words)])
            return
        facts = {
            **_facts(appliance),
            "properties": shown,
            "containers": counted,
        }
        lines = [
            f"Name:         {appliance.name}",
            f"ID:           {appliance.reference._moId}",
            f"UUID:         {appliance.identity}",
            f"Tenant:       {appliance.tenant}",
            f"Version:      {appliance.version}",
            f"Power:        {appliance.power}",
            f"DOCKER_HOST:  {docker_host(appliance) or 'unknown: the appliance has not reported its address'}",
            f"Containers:   {counted['all']}, {counted['running']} running",
            "Properties:",
            *(f"  {key}: {_one_line(value)}" for key, value in sorted(shown.items())),
        ]
        report.result(facts, lines)


def _counted(machines: Sequence[tuple[object, str, bool]]) -> dict[str, int]:
    return {"all": len(machines), "running": sum(on for _, _, on in machines)}


def _one_line(value: str) -> str:
    first, _, more = value.strip().partition("\n")
    return f"{first} ..." if more else first


def _facts(appliance: Deployed) -> dict[str, object]:
    return {
        "id": appliance.reference._moId,
        "name": appliance.name,
        "uuid": appliance.identity,
        "tenant": appliance.tenant,
        "version": appliance.version,
        "power": appliance.power,
        "docker_host": docker_host(appliance),
    }
