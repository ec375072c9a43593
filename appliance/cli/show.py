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
        for one in found:
            counted = _counted(await appliances.containers(one))
            host = docker_host(one)
            rows.append(
                (
                    one.reference._moId,
                    one.name,
                    one.tenant,
                    one.version,
                    one.power,
                    host,
                    f"{counted['running']} of {counted['all']}",
                )
            )
            values.append({**_facts(one), "containers": counted})
        if options.quiet:
            report.result(values, [one.name for one in found])
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
        one = await appliances.named(options.name)
        counted = _counted(await appliances.containers(one))
        shown = {
            key: value for key, value in one.values.items() if value and key in PROPERTY and not PROPERTY[key].secret
        }
        if options.conf:
            words = ["vch", "create", "--target", options.target, "--user", options.user, "--name", one.name]
            for key, value in shown.items():
                if value != PROPERTY[key].default:
                    words += words_of(key, value)
            if shown.get("tls-verify") == "false":
                words.append("--no-tlsverify")
            report.result({"options": words[2:]}, [shlex.join(words)])
            return
        facts = {
            **_facts(one),
            "properties": shown,
            "containers": counted,
        }
        lines = [
            f"Name:         {one.name}",
            f"ID:           {one.reference._moId}",
            f"UUID:         {one.identity}",
            f"Tenant:       {one.tenant}",
            f"Version:      {one.version}",
            f"Power:        {one.power}",
            f"DOCKER_HOST:  {docker_host(one) or 'unknown: the appliance has not reported its address'}",
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


def _facts(one: Deployed) -> dict[str, object]:
    return {
        "id": one.reference._moId,
        "name": one.name,
        "uuid": one.identity,
        "tenant": one.tenant,
        "version": one.version,
        "power": one.power,
        "docker_host": docker_host(one),
    }
