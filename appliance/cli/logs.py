"""`vch logs`: logs, state and history of an appliance in one archive, without secrets."""

import argparse
import re
import time
from pathlib import Path

import httpx
import msgspec

from appliance.cli.bundle import Bundle, text_of_frames, without_values
from appliance.cli.reach import client_of, docker_host, known_address
from appliance.cli.report import Report
from appliance.cli.target import opened
from appliance.config.table import PROPERTY
from appliance.errors import Unavailable, VchError
from appliance.hypervisor.vsphere.appliances import Deployed
from appliance.provision.certificates import write_private


class _Listed(msgspec.Struct):
    """An entry of GET /containers/json."""

    id: str = msgspec.field(name="Id")
    names: list[str] | None = msgspec.field(name="Names", default=None)


class _Config(msgspec.Struct):
    tty: bool = msgspec.field(name="Tty", default=False)


class _Inspected(msgspec.Struct):
    """What of GET /containers/ID/json decides the format of the log."""

    config: _Config = msgspec.field(name="Config", default_factory=_Config)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag("name", help="Name or id of the appliance")
    flag("-o", "--out", type=Path, metavar="FILE", help="The archive to write (default: NAME-logs-TIME.tar.gz)")
    flag("--tail", type=int, default=2000, metavar="LINES", help="Last lines of each container's log (default: 2000)")
    flag("--cert-path", type=Path, metavar="FOLDER", help="Folder of certificates (default: ./NAME)")


async def run(options: argparse.Namespace, report: Report) -> None:
    """Write the archive. Parts that are not available are left out, with a warning each."""
    async with opened(options) as appliances:
        appliance = await appliances.named(options.name)
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        bundle = Bundle(f"{appliance.name}-logs-{stamp}")
        shown = {key: value for key, value in appliance.values.items() if key in PROPERTY and not PROPERTY[key].secret}
        bundle.add(
            "appliance.json",
            {
                "name": appliance.name,
                "tenant": appliance.tenant,
                "version": appliance.version,
                "power": appliance.power,
                "docker_host": docker_host(appliance),
                "properties": shown,
            },
        )
        report.step("Asking vSphere")
        for what, text in (await appliances.history(appliance)).items():
            bundle.add(f"vsphere/{what}.txt", text)
        report.step("Asking the appliance")
        missing = await _ask(appliance, bundle, options.cert_path or Path(appliance.name), options.tail)
        for text in missing:
            report.finding("warnings", "logs", text, "")
    target = options.out or Path(f"{appliance.name}-logs-{stamp}.tar.gz")
    write_private(target, bundle.finish())
    report.result({"file": str(target), "holds": bundle.names}, [str(target)])


async def _ask(appliance: Deployed, bundle: Bundle, folder: Path, tail: int) -> list[str]:
    """Add what the API of the appliance answers. Returns what is missing, one text each."""
    missing: list[str] = []
    address = known_address(appliance.values) or appliance.address
    if appliance.power != "poweredOn" or not address:
        return [
            f"the appliance is {appliance.power}, its address is {address or 'unknown'}: logs of vchd and of containers are missing"
        ]
    try:
        async with client_of(address, appliance.values, folder) as client:
            for path, name in (
                ("/version", "vchd/version.json"),
                ("/info", "vchd/info.json"),
                ("/vch/debug/dump", "vchd/tasks.txt"),
                ("/vch/debug/log", "vchd/log.txt"),
            ):
                response = await _get(client, path)
                bundle.add(name, response.text)
            listed = (await _get(client, "/containers/json?all=1")).content
            for container in msgspec.json.decode(listed, type=list[_Listed]):
                await _container(client, container, bundle, tail, missing)
    except (Unavailable, httpx.HTTPError, ValueError) as error:
        missing.append(f"the API at {address} did not answer every request: {str(error) or type(error).__name__}")
    return missing


async def _get(client: httpx.AsyncClient, path: str) -> httpx.Response:
    response = await client.get(path)
    if not response.is_success:
        raise Unavailable(f"{path}: {response.status_code} {response.text.strip()[:200]}")
    return response


async def _container(client: httpx.AsyncClient, listed: _Listed, bundle: Bundle, tail: int, missing: list[str]) -> None:
    """Add `inspect`, the trace of the last start, and the log of a container."""
    identity = listed.id
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", (listed.names or [identity])[0].lstrip("/"))
    folder = f"containers/{name}-{identity[:12]}"
    try:
        answer = (await _get(client, f"/containers/{identity}/json")).content
        inspected = msgspec.json.decode(answer, type=dict[str, object])
        bundle.add(f"{folder}/inspect.json", without_values(inspected))
        bundle.add(f"{folder}/start.txt", (await _get(client, f"/vch/debug/trace/{identity}")).text)
        found = await _get(client, f"/containers/{identity}/logs?stdout=1&stderr=1&timestamps=1&tail={tail}")
        has_tty = msgspec.json.decode(answer, type=_Inspected).config.tty
        bundle.add(f"{folder}/log.txt", found.text if has_tty else text_of_frames(found.content))
    except VchError as error:
        missing.append(f"container {name}: {error}")
