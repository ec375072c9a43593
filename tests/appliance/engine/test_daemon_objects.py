"""The daemon's own container, volume and network: clients see them only by a filter, and no event tells of them."""

from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.api.containers import ContainerRoutes
from appliance.api.networks import NetworkRoutes
from appliance.api.router import Route
from appliance.api.usage import UsageRoutes
from appliance.api.volumes import VolumeRoutes
from appliance.container.config import ContainerConfig
from appliance.container.daemon_objects import BUILDER, ROLE_LABEL
from appliance.container.host_config import HostConfig
from appliance.network.network_record import NetworkRecord
from tests.appliance.api.asking import ask
from tests.appliance.engine.harness import Engine, Host, engine
from tests.appliance.engine.networking.fake_networks import RecordingHost

_LABELS = {ROLE_LABEL: BUILDER}
_MOUNT = {"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {"Labels": _LABELS}}
_MOUNTING = {"Image": "empty", "Cmd": ["x"], "HostConfig": {"Mounts": [_MOUNT]}}
_ASKED = 'filters={"label":["vch.role=builder"]}'


def _routes(daemon: Engine) -> dict[tuple[str, str], Route]:
    services, stores = daemon.services, daemon.stores
    parts = (daemon.registry, services.creation, services.removal, services.storage, services.execs)
    return {
        **ContainerRoutes(*parts, stores.networks, stores.images).routes(),
        **NetworkRoutes(stores.networks, services.connections).routes(),
        **VolumeRoutes(stores.volumes).routes(),
        **UsageRoutes(daemon.registry, services.storage, stores.networks, stores.images, stores.volumes).routes(),
    }


async def _names(routes: dict[tuple[str, str], Route], query: str = "") -> tuple[list[Any], list[Any], list[Any]]:
    _, containers = await ask(routes, f"GET /containers/json?all=1&{query}")
    _, volumes = await ask(routes, f"GET /volumes?{query}")
    _, networks = await ask(routes, f"GET /networks?{query}")
    return (
        [name for one in containers for name in one["Names"]],
        [one["Name"] for one in volumes["Volumes"]],
        [one["Name"] for one in networks],
    )


async def test_they_are_hidden(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery)
    host.network = RecordingHost()
    with trio.fail_after(60):
        async with engine(host, tmp_path) as daemon:
            networks, volumes = daemon.stores.networks, daemon.stores.volumes
            network = NetworkRecord("", "theirs", "bridge", 0, labels=_LABELS, role=BUILDER)
            await networks.create(network, unique=True)
            await volumes.create("cache", _LABELS, {"size": "8m"}, role=BUILDER)
            container = await daemon.services.creation.create(
                "bb",
                ContainerConfig(image="empty", cmd=["sleeper"], labels=_LABELS),
                HostConfig(binds=["cache:/cache"], network_mode="theirs"),
                {},
                role=BUILDER,
            )
            await daemon.start(container)
            routes = _routes(daemon)
            assert await _names(routes) == ([], [], ["bridge", "host", "none"])
            # Other filters, and the absence of the label, do not ask for them.
            assert (await _names(routes, 'filters={"name":["bb","cache","theirs"]}'))[:2] == ([], [])
            assert await _names(routes, _ASKED) == (["/bb"], ["cache"], ["theirs"])
            assert (await ask(routes, "GET /containers/bb/json"))[1]["Config"]["Labels"] == _LABELS
            _, usage = await ask(routes, "GET /system/df")
            assert (usage["Containers"], usage["Volumes"]) == ([], [])
            assert usage["Images"][0]["Containers"] == 1
            await daemon.stop(container)
            assert (await ask(routes, "POST /containers/prune"))[1]["ContainersDeleted"] is None
            await daemon.remove(container)
            _, pruned = await ask(routes, 'POST /volumes/prune?filters={"all":["1"]}')
            assert pruned["VolumesDeleted"] == []
            assert (await ask(routes, "POST /networks/prune"))[1]["NetworksDeleted"] is None
            # By its name a client frees the disk.
            assert (await ask(routes, "DELETE /volumes/cache"))[0] == 204
            await networks.remove("theirs")
            assert {(event.type, event.action) for event in daemon.all_events()} <= {
                ("image", "load"),
                ("container", "prune"),
                ("volume", "prune"),
                ("network", "prune"),
            }


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("POST /containers/create", {"Image": "empty", "Cmd": ["x"], "Labels": _LABELS}),
        ("POST /containers/create", _MOUNTING),
        ("POST /volumes/create", {"Name": "v", "Labels": _LABELS}),
        ("POST /networks/create", {"Name": "n", "Labels": _LABELS}),
    ],
)
async def test_clients_cannot_make_them(tmp_path: Path, nursery: trio.Nursery, line: str, body: dict[str, Any]) -> None:
    host = Host(nursery)
    host.network = RecordingHost()
    with trio.fail_after(60):
        async with engine(host, tmp_path) as daemon:
            routes = _routes(daemon)
            status, answer = await ask(routes, line, body)
            assert (status, answer) == (400, {"message": "label vch.role is reserved"})
            assert (await _names(routes, _ASKED)) == ([], [], [])
