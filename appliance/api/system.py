"""/_ping, /version and /info."""

import platform
import time
from collections import Counter
from dataclasses import dataclass

from appliance import __version__
from appliance.api.backend import ContainerRegistry, DaemonBackend, NetworkBackend
from appliance.api.router import ENGINE_VERSION, NEWEST, OLDEST, Route, dotted
from appliance.api.swarm import SwarmBackend, info_shape
from appliance.config import Config
from appliance.container.lifecycle import status_word
from appliance.container.times import rfc3339
from appliance.http import Reply, Request
from appliance.image.store import ImageStore
from appliance.logdrivers import DEFAULT as DEFAULT_LOG_DRIVER
from appliance.logdrivers import driver_names
from appliance.registry import Proxies

_USER_MODE = "WARNING: user-mode networking: containers cannot reach each other, and networks cannot be created"
_PING = (
    b"Cache-Control: no-cache, no-store, must-revalidate\r\nPragma: no-cache\r\n"
    # Without this header the CLI hides its checkpoint commands.
    b"Docker-Experimental: true\r\n"
    # The CLI builds by BuildKit's API. (1 is the classic builder.)
    b"Builder-Version: 2\r\n"
)


@dataclass(frozen=True, slots=True)
class SystemSettings:
    """What /info shows of the daemon's configuration. `host_id` identifies this daemon's data root."""

    config: Config
    host_id: str
    proxies: Proxies


class SystemRoutes:
    def __init__(
        self,
        settings: SystemSettings,
        daemon: DaemonBackend,
        containers: ContainerRegistry,
        networks: NetworkBackend,
        images: ImageStore,
        swarm: SwarmBackend,
    ) -> None:
        self._settings = settings
        self._daemon = daemon
        self._containers = containers
        self._networks = networks
        self._images = images
        self._swarm = swarm

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {
            ("GET", "/_ping"): self.ping,
            ("HEAD", "/_ping"): self.ping,
            ("GET", "/version"): self.version,
            ("GET", "/info"): self.info,
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
        driver = self._daemon.hypervisor()
        await reply.json(
            200,
            {
                "Platform": {"Name": f"vch {__version__}: a virtual container host"},
                "Version": ENGINE_VERSION,
                **details,
                "Experimental": True,
                "Components": [
                    {"Name": "Engine", "Version": ENGINE_VERSION, "Details": {**details, "Experimental": "true"}},
                    {"Name": "vch", "Version": __version__, "Details": {}},
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
        containers = [container for container in self._containers.all() if not container.record.role]
        words = Counter(status_word(container.state) for container in containers)
        running, paused = words["running"], words["paused"]
        facts = await self._daemon.status()
        proxies = self._settings.proxies
        # Since API 1.49 without the commit that dockerd expected.
        commit = {"ID": ""} if request.version >= (1, 49) else {"ID": "", "Expected": ""}
        capacity = await self._daemon.capacity()
        devices = await self._daemon.devices() if request.version >= (1, 50) else []
        await reply.json(
            200,
            {
                "ID": self._settings.host_id,
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
                "OperatingSystem": f"vch {__version__}",
                "OSVersion": "",
                "OSType": "linux",
                "Architecture": "x86_64",
                "IndexServerAddress": "https://index.docker.io/v1/",
                "RegistryConfig": {
                    "InsecureRegistryCIDRs": ["127.0.0.0/8"],
                    "IndexConfigs": {},
                    "Mirrors": list(self._settings.config.registry_mirrors),
                },
                "NCPU": capacity.cpus,
                "MemTotal": capacity.memory,
                "GenericResources": None,
                "DockerRootDir": str(self._settings.config.data_root),
                "HttpProxy": proxies.shown(proxies.http),
                "HttpsProxy": proxies.shown(proxies.https),
                "NoProxy": proxies.no_proxy,
                "Name": platform.node(),
                "Labels": list(self._settings.config.labels),
                "ExperimentalBuild": True,
                "ServerVersion": ENGINE_VERSION,
                "Runtimes": {"vch": {"path": ""}},
                "DefaultRuntime": "vch",
                "Swarm": info_shape(self._swarm.record),
                "LiveRestoreEnabled": True,
                "Isolation": "",
                "InitBinary": "tini",
                "SecurityOptions": [],
                "Warnings": None if self._networks.bridged else [_USER_MODE],
                "ContainerdCommit": commit,
                "RuncCommit": commit,
                "InitCommit": commit,
                "CDISpecDirs": [],
                **({"DiscoveredDevices": [{"Source": "cdi", "ID": name} for name in devices]} if devices else {}),
            },
        )
