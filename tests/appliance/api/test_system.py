"""Routes about the daemon."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from appliance import __version__
from appliance.api.router import Router
from appliance.api.system import SystemRoutes
from appliance.container.lifecycle import Created
from appliance.hypervisor import Capacity
from tests.appliance.api.asking import ask
from tests.appliance.http.wire import served

_HEADERS = (
    b"Cache-Control: no-cache, no-store, must-revalidate\r\nPragma: no-cache\r\nDocker-Experimental: true\r\n"
    b"Builder-Version: 2\r\n\r\n"
)


class _Daemon:
    def hypervisor(self) -> dict[str, str]:
        return {"Driver": "fake", "Version": "1.0", "Acceleration": "none"}

    async def status(self) -> dict[str, str]:
        return {"Pool": "2"}

    async def capacity(self) -> Capacity:
        return Capacity(7, 5 << 30)

    async def devices(self) -> list[str]:
        return ["vfio/pci=0000:01:00.0"]


def _routes(*, bridged: bool = True) -> Any:
    config = SimpleNamespace(registry_mirrors=("mirror",), data_root=Path("/data"), labels=("a=b",))
    proxies = SimpleNamespace(shown=lambda text: text, http="http://proxy", https="", no_proxy="local")
    settings: Any = SimpleNamespace(config=config, host_id="id", proxies=proxies)
    # The daemon's own container does not count.
    listed = [SimpleNamespace(state=Created(), record=SimpleNamespace(role=role)) for role in ("", "builder")]
    containers: Any = SimpleNamespace(all=lambda: listed)
    networks: Any = SimpleNamespace(bridged=bridged)
    images: Any = SimpleNamespace(all=list)
    swarm: Any = SimpleNamespace(record=None)
    daemon: Any = _Daemon()
    return SystemRoutes(settings, daemon, containers, networks, images, swarm).routes()


async def test_ping() -> None:
    router = Router()
    router.add_all(_routes())
    head = b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\n"
    async with served(router) as client:
        await client.send(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\nHEAD /v1.24/_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.expect(head + _HEADERS + b"OK" + head + _HEADERS)


async def test_version() -> None:
    status, shape = await ask(_routes(), "GET /version")
    assert (status, shape["ApiVersion"], shape["MinAPIVersion"]) == (200, "1.51", "1.22")
    # testcontainers for Java refuses a server before 1.6.0; the version is that of a Docker Engine with this API.
    assert (shape["Version"], shape["Platform"]) == ("28.5.2", {"Name": f"vch {__version__}: a virtual container host"})
    engine, ours, driver = shape["Components"]
    assert (engine["Version"], engine["Details"]["Experimental"]) == ("28.5.2", "true")
    assert ours == {"Name": "vch", "Version": __version__, "Details": {}}
    assert driver == {"Name": "fake", "Version": "1.0", "Details": {"Acceleration": "none"}}


async def test_info() -> None:
    status, shape = await ask(_routes(), "GET /info")
    assert (shape["NCPU"], shape["MemTotal"]) == (7, 5 << 30)
    assert status == 200
    assert (shape["ServerVersion"], shape["OperatingSystem"]) == ("28.5.2", f"vch {__version__}")
    assert (shape["ID"], shape["Containers"], shape["ContainersStopped"], shape["ContainersRunning"]) == ("id", 1, 1, 0)
    assert (shape["CDISpecDirs"], shape["RuncCommit"]) == ([], {"ID": ""})
    assert (await ask(_routes(), "GET /v1.48/info"))[1]["RuncCommit"] == {"ID": "", "Expected": ""}
    assert shape["DiscoveredDevices"] == [{"Source": "cdi", "ID": "vfio/pci=0000:01:00.0"}]
    assert "DiscoveredDevices" not in (await ask(_routes(), "GET /v1.49/info"))[1]
    assert shape["DriverStatus"] == [["Pool", "2"]]
    assert shape["Warnings"] is None
    assert shape["Swarm"]["LocalNodeState"] == "inactive"
    assert shape["RegistryConfig"]["Mirrors"] == ["mirror"]


async def test_user_mode_networking_is_a_warning() -> None:
    _, shape = await ask(_routes(bridged=False), "GET /info")
    assert shape["Warnings"] == [
        "WARNING: user-mode networking: containers cannot reach each other, and networks cannot be created"
    ]
