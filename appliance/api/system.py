"""Routes about the daemon: /_ping, /version, /info, /events, and /vch/debug for `vch debug`."""

import os
import platform
import time
from collections import Counter
from typing import Any

import msgspec
import trio

from appliance import __version__
from appliance.api.backend import ContainerBackend, EventBackend, NetworkBackend
from appliance.api.filters import matches_labels, parse_filters
from appliance.api.router import NEWEST, OLDEST, Route, Version, dotted
from appliance.api.swarm import SwarmBackend, info_shape
from appliance.api.times import parse_time
from appliance.config import Config
from appliance.container.event import Event
from appliance.container.lifecycle import status_word
from appliance.container.times import rfc3339
from appliance.diag import dump_tasks
from appliance.diag.logfile import LOG_NAME, parts
from appliance.http import Reply, Request
from appliance.hypervisor import Driver
from appliance.image.store import ImageStore
from appliance.logdrivers import DEFAULT as DEFAULT_LOG_DRIVER
from appliance.logdrivers import driver_names
from appliance.registry import Proxies

_FILTERS = frozenset((
    "container", "daemon", "event", "image", "label", "network", "plugin", "scope", "type", "volume", "id", "node", "service",
    "secret", "config",
))  # fmt: skip


_USER_MODE = "WARNING: user-mode networking: containers cannot reach each other, and networks cannot be created"
_PING = (
    b"Cache-Control: no-cache, no-store, must-revalidate\r\nPragma: no-cache\r\n"
    # Without this header the CLI hides its checkpoint commands.
    b"Docker-Experimental: true\r\n"
)


class SystemRoutes:
    def __init__(
        self,
        config: Config,
        driver: Driver,
        containers: ContainerBackend,
        networks: NetworkBackend,
        images: ImageStore,
        events: EventBackend,
        proxies: Proxies,
        host_id: str,
        swarm: SwarmBackend,
    ) -> None:
        self._swarm = swarm
        self._config = config
        self._driver = driver
        self._containers = containers
        self._networks = networks
        self._images = images
        self._events = events
        self._proxies = proxies
        self._id = host_id

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {
            ("GET", "/_ping"): self.ping,
            ("HEAD", "/_ping"): self.ping,
            ("GET", "/version"): self.version,
            ("GET", "/info"): self.info,
            ("GET", "/events"): self.events,
            ("GET", "/vch/debug/dump"): self.dump,
            ("GET", "/vch/debug/log"): self.log,
            ("GET", "/vch/debug/trace/{name}"): self.trace,
        }

    async def ping(self, request: Request, reply: Reply) -> None:
        """GET and HEAD /_ping."""
        await reply.raw(200, b"text/plain; charset=utf-8", b"OK", _PING)

    async def version(self, request: Request, reply: Reply) -> None:
        """GET /version."""
        details = {
            "ApiVersion": dotted(NEWEST),
            "MinAPIVersion": dotted(OLDEST),
            "Os": "linux",
            "Arch": "amd64",
            "KernelVersion": platform.release(),
            "GoVersion": f"python{platform.python_version()}",
            "GitCommit": "",
            "BuildTime": "",
        }
        driver = self._driver.describe()
        await reply.json(
            200,
            {
                "Platform": {"Name": "vch: a virtual container host"},
                "Version": __version__,
                **details,
                "Experimental": True,
                "Components": [
                    {"Name": "Engine", "Version": __version__, "Details": {**details, "Experimental": "true"}},
                    {
                        "Name": driver["Driver"],
                        "Version": driver["Version"],
                        "Details": {key: value for key, value in driver.items() if key not in ("Driver", "Version")},
                    },
                ],
            },
        )

    async def info(self, request: Request, reply: Reply) -> None:
        """GET /info."""
        containers = self._containers.all()
        words = Counter(status_word(container.state) for container in containers)
        running, paused = words["running"], words["paused"]
        facts = self._driver.describe() | await self._containers.facts()
        proxies = self._proxies
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        await reply.json(
            200,
            {
                "ID": self._id,
                "Containers": len(containers),
                "ContainersRunning": running,
                "ContainersPaused": paused,
                "ContainersStopped": len(containers) - running - paused,
                "Images": len(self._images.all()),
                "Driver": "erofs",
                "DriverStatus": [[key, value] for key, value in facts.items()],
                "Plugins": {
                    "Volume": ["local"],
                    "Network": ["bridge", "host", "null", "overlay"],
                    "Authorization": None,
                    "Log": driver_names(),
                },
                "MemoryLimit": True,
                "SwapLimit": True,
                "CpuCfsPeriod": True,
                "CpuCfsQuota": True,
                "CPUShares": True,
                "CPUSet": True,
                "PidsLimit": True,
                "IPv4Forwarding": True,
                "Debug": False,
                "NFd": 0,
                "OomKillDisable": False,
                "NGoroutines": 0,
                "SystemTime": rfc3339(time.time_ns()),
                "LoggingDriver": DEFAULT_LOG_DRIVER,
                "CgroupDriver": "none",
                "CgroupVersion": "2",
                "NEventsListener": 0,
                "KernelVersion": platform.release(),
                "OperatingSystem": "vch",
                "OSVersion": "",
                "OSType": "linux",
                "Architecture": "x86_64",
                "IndexServerAddress": "https://index.docker.io/v1/",
                "RegistryConfig": {
                    "InsecureRegistryCIDRs": ["127.0.0.0/8"],
                    "IndexConfigs": {},
                    "Mirrors": list(self._config.registry_mirrors),
                },
                "NCPU": os.cpu_count() or 1,
                "MemTotal": memory,
                "GenericResources": None,
                "DockerRootDir": str(self._config.data_root),
                "HttpProxy": proxies.shown(proxies.http),
                "HttpsProxy": proxies.shown(proxies.https),
                "NoProxy": proxies.no_proxy,
                "Name": platform.node(),
                "Labels": list(self._config.labels),
                "ExperimentalBuild": True,
                "ServerVersion": __version__,
                "Runtimes": {"vch": {"path": ""}},
                "DefaultRuntime": "vch",
                "Swarm": info_shape(self._swarm.record),
                "LiveRestoreEnabled": True,
                "Isolation": "",
                "InitBinary": "tini",
                "SecurityOptions": [],
                "Warnings": None if self._networks.bridged else [_USER_MODE],
                "ContainerdCommit": {"ID": "", "Expected": ""},
                "RuncCommit": {"ID": "", "Expected": ""},
                "InitCommit": {"ID": "", "Expected": ""},
            },
        )

    async def events(self, request: Request, reply: Reply) -> None:
        """GET /events: past events since `since`, then live events until `until`."""
        filters = parse_filters(request.text("filters"), _FILTERS)
        since, until = parse_time(request.text("since")), parse_time(request.text("until"))
        past, live = self._events.watch(since)
        async with request.while_connected():
            await reply.start("application/json")
            for event in past:
                if (until is None or event.time_ns <= until) and _matches(event, filters):
                    await reply.write(_encode(event, request.version))
            left = float("inf") if until is None else (until - time.time_ns()) / 1e9
            with trio.move_on_after(max(0.0, left)):
                async for event in live:
                    if _matches(event, filters):
                        await reply.write(_encode(event, request.version))

    async def trace(self, request: Request, reply: Reply) -> None:
        """GET /vch/debug/trace/{name}: the timeline of a container's last start."""
        container = self._containers.get(request.path["name"])
        await reply.raw(200, b"text/plain; charset=utf-8", container.trace.text().encode())

    async def dump(self, request: Request, reply: Reply) -> None:
        """GET /vch/debug/dump: all tasks, and where they wait."""
        await reply.raw(200, b"text/plain; charset=utf-8", dump_tasks().encode())

    async def log(self, request: Request, reply: Reply) -> None:
        """GET /vch/debug/log: vchd's own log, with its rotated parts."""
        await reply.start("text/plain; charset=utf-8")
        for part in parts(self._config.data_root / LOG_NAME):
            with part.open("rb") as file:
                while piece := await trio.to_thread.run_sync(file.read, 1 << 18):
                    await reply.write(piece)


def _matches(event: Event, filters: dict[str, list[str]]) -> bool:
    name = event.attributes.get("name", "")
    for key, values in filters.items():
        if not values:
            continue
        match key:
            case "type":
                good = event.type in values
            case "event":
                # "exec_create: COMMAND" and "health_status: STATUS" match by their first word.
                good = any(event.action == value or event.action.startswith(f"{value}:") for value in values)
            case "container" | "network" | "volume" | "id":
                good = (key in ("id", event.type)) and any(
                    event.id.startswith(v) or name == v.removeprefix("/") for v in values
                )
            case "image":
                names = (event.attributes.get("image", ""), name, event.id)
                good = any(value in names or f"{value}:latest" in names for value in values)
            case "label":
                good = matches_labels(values, event.attributes)
            case "scope":
                good = "local" in values
            case _:
                good = False
        if not good:
            return False
    return True


def _encode(event: Event, version: Version) -> bytes:
    shape: dict[str, Any] = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time_ns // 1_000_000_000,
        "timeNano": event.time_ns,
    }
    if version < (1, 52) and event.type in ("container", "image"):
        shape = {"status": event.action, "id": event.id, **shape}
        if event.type == "container":
            shape["from"] = event.attributes.get("image", "")
    return msgspec.json.encode(shape) + b"\n"
