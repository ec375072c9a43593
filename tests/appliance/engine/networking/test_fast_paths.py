"""The fast path to a guest: offered while the container runs, at our address on one of its networks."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from appliance.config import ContainerNetwork
from appliance.container.endpoint_settings import EndpointSettings
from appliance.engine.model.run import Run
from appliance.engine.networking.fast_paths import FastPathWatcher
from appliance.engine.networking.networks import NetworkSettings
from appliance.guest.fast_path import FastPaths
from appliance.network.network_record import NetworkRecord, Pool
from tests.appliance.engine.networking.fake_networks import networks_at


class _Paths:
    """Takes the place of FastPaths: it remembers whom it was asked to keep a path to."""

    def __init__(self) -> None:
        self.session: object = None
        self.address: Callable[[], str] = lambda: ""
        self.over = False

    async def keep(self, session: object, address: Callable[[], str]) -> None:
        self.session, self.address = session, address
        try:
            await trio.sleep_forever()
        finally:
            self.over = True


class _Run:
    """What FastPathWatcher uses of a Run."""

    session = "the session"
    network = ""

    def __init__(self) -> None:
        self.gone = trio.Event()

    accompany = Run.accompany


@pytest.mark.parametrize(
    ("network", "also", "address"),
    [
        ("bridge", [], "10.11.0.1"),
        ("inner", [], "10.20.0.1"),
        ("inner", ["bridge"], "10.11.0.1"),
        ("lan", [], ""),
        ("lan", ["inner"], "10.20.0.1"),
        ("none", [], ""),
    ],
)
async def test_our_address(tmp_path: Path, network: str, also: list[str], address: str) -> None:
    lan = ContainerNetwork("lan", "br-lan", "192.0.2.0/24", "192.0.2.1")
    async with networks_at(tmp_path, settings=NetworkSettings("vch0", "10.11.0.1/24", (), (lan,))) as world:
        inner = NetworkRecord("", "inner", "bridge", 0, [Pool("10.20.0.0/24")], internal=True)
        await world.networks.create(inner, unique=True)
        container = world.container("web", network, also={name: EndpointSettings() for name in also})
        world.allocator.acquire_all(container)
        paths, run = _Paths(), _Run()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(FastPathWatcher(cast(FastPaths, paths)).watch, container, cast(Run, run))
            await wait_all_tasks_blocked()
            assert (paths.session, paths.address()) == ("the session", address)
            assert not paths.over
            run.gone.set()
        assert paths.over
