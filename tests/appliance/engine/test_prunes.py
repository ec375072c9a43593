"""Each prune is refused while another of its kind runs. As in moby, containers and networks are of one kind."""

from contextlib import ExitStack

import pytest

from appliance.api.containers import ContainerRoutes
from appliance.api.images import ImageRoutes
from appliance.api.networks import NetworkRoutes
from appliance.api.volumes import VolumeRoutes
from tests.appliance.api.asking import ask
from tests.appliance.engine.harness import Engine


@pytest.mark.parametrize(
    ("running", "refused"),
    [("containers", {"containers", "networks"}), ("images", {"images"}), ("volumes", {"volumes"})],
)
async def test_one_prune_at_a_time(daemon: Engine, running: str, refused: set[str]) -> None:
    services, stores = daemon.services, daemon.stores
    images = ImageRoutes(stores.images, daemon.registry, services.commits, daemon.bus)
    parts = (daemon.registry, services.creation, services.removal, services.storage, services.execs)
    routes = {
        **ContainerRoutes(*parts, stores.networks, stores.images).routes(),
        **NetworkRoutes(stores.networks, services.connections).routes(),
        **VolumeRoutes(stores.volumes).routes(),
        **images.routes(),
    }
    guards = {
        "containers": stores.networks.pruning,
        "networks": stores.networks.pruning,
        "volumes": stores.volumes.pruning,
        "images": images.pruning,
    }
    found = {}
    for held in (True, False):
        with ExitStack() as stack:
            if held:
                stack.enter_context(guards[running].running())
            for kind in guards:
                status, body = await ask(routes, f"POST /v1.51/{kind}/prune")
                found[held, kind] = (status, body.get("message"))
    conflict = (409, "a prune operation is already running")
    assert {kind for kind in guards if found[True, kind] == conflict} == refused
    assert all(found[key] == (200, None) for key in found if not key[0] or key[1] not in refused)
