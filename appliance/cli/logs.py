"""`vch logs`: all that tells what an appliance did, in one file, without secrets."""

import argparse
import re
import time
from pathlib import Path
from typing import Any

import httpx

from appliance.cli.bundle import Bundle, text_of_frames, without_values
from appliance.cli.reach import client_of, docker_host, known_address
from appliance.cli.report import Report
from appliance.cli.target import opened
from appliance.config.table import PROPERTY
from appliance.errors import Unavailable, VchError
from appliance.hypervisor.vsphere.appliances import Deployed
from appliance.provision.certificates import write_private


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag("name", help="of the appliance, or its id")
    flag("-o", "--out", type=Path, help="the file, NAME-logs-TIME.tar.gz")
    flag("--tail", type=int, default=2000, metavar="LINES", help="of each container's log (2000)")
    flag("--cert-path", type=Path, help="the folder of certificates, ./NAME")


async def run(options: argparse.Namespace, report: Report) -> None:
    """What cannot be had is said, and left out."""
    async with opened(options) as appliances:
        one = await appliances.named(options.name)
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        bundle = Bundle(f"{one.name}-logs-{stamp}")
        shown = {key: value for key, value in one.values.items() if key in PROPERTY and not PROPERTY[key].secret}
        bundle.add(
            "appliance.json",
            {
                "name": one.name,
                "tenant": one.tenant,
                "version": one.version,
                "power": one.power,
                "docker_host": docker_host(one),
                "properties": shown,
            },
        )
        report.step("Asking vSphere")
        for what, text in (await appliances.history(one)).items():
            bundle.add(f"vsphere/{what}.txt", text)
        report.step("Asking the appliance")
        missing = await _ask(one, bundle, options.cert_path or Path(one.name), options.tail)
        for text in missing:
            report.finding("warnings", "logs", text, "")
    target = options.out or Path(f"{one.name}-logs-{stamp}.tar.gz")
    write_private(target, bundle.finish())
    report.result({"file": str(target), "holds": bundle.names}, [str(target)])


async def _ask(one: Deployed, bundle: Bundle, folder: Path, tail: int) -> list[str]:
    """What the appliance itself tells; returns what could not be had."""
    missing: list[str] = []
    address = known_address(one.values) or one.address
    if one.power != "poweredOn" or not address:
        return [f"the appliance is {one.power}, its address {address or 'not known'}: what it could tell is missing"]
    try:
        async with client_of(address, one.values, folder) as client:
            for path, name in (
                ("/version", "vchd/version.json"),
                ("/info", "vchd/info.json"),
                ("/vch/debug/dump", "vchd/tasks.txt"),
                ("/vch/debug/log", "vchd/log.txt"),
            ):
                response = await _get(client, path)
                bundle.add(name, response.text)
            for container in (await _get(client, "/containers/json?all=1")).json():
                await _container(client, container, bundle, tail, missing)
    except (Unavailable, httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        missing.append(f"the appliance at {address} does not tell all: {str(error) or type(error).__name__}")
    return missing


async def _get(client: httpx.AsyncClient, path: str) -> httpx.Response:
    response = await client.get(path)
    if not response.is_success:
        raise Unavailable(f"{path}: {response.status_code} {response.text.strip()[:200]}")
    return response


async def _container(
    client: httpx.AsyncClient, listed: dict[str, Any], bundle: Bundle, tail: int, missing: list[str]
) -> None:
    identity = str(listed["Id"])
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", str((listed.get("Names") or [identity])[0]).lstrip("/"))
    folder = f"containers/{name}-{identity[:12]}"
    try:
        inspected = (await _get(client, f"/containers/{identity}/json")).json()
        bundle.add(f"{folder}/inspect.json", without_values(inspected))
        bundle.add(f"{folder}/start.txt", (await _get(client, f"/vch/debug/trace/{identity}")).text)
        found = await _get(client, f"/containers/{identity}/logs?stdout=1&stderr=1&timestamps=1&tail={tail}")
        tty = (inspected.get("Config") or {}).get("Tty")
        bundle.add(f"{folder}/log.txt", found.text if tty else text_of_frames(found.content))
    except VchError as error:
        missing.append(f"container {name}: {error}")
