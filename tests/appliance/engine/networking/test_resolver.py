"""The DNS answers that containers get: names, aliases and links of their own networks, and no other."""

import pytest

from appliance.container.config import ContainerConfig
from appliance.container.endpoint_settings import EndpointSettings
from appliance.container.host_config import HostConfig
from appliance.engine.model.container import Container
from appliance.engine.networking.resolver import Resolver, dns_names
from appliance.network.dns_server import Answer
from appliance.network.network_record import NetworkRecord, Pool
from tests.appliance.engine.networking.fake_networks import World


class _Asker:
    def __init__(self, world: World, container: Container, network: str) -> None:
        self._resolver = Resolver(world.allocator.endpoints, ("192.0.2.1",))
        self._network = world.networks.get(network)
        endpoint = next(one for one in container.endpoints if one.network is self._network)
        assert endpoint.ipv4 is not None
        self.address = endpoint.ipv4.address

    def __call__(self, name: str) -> Answer:
        return self._resolver.resolve(self._network.id, self.address, name)

    def reverse(self, address: str) -> str | None:
        return self._resolver.reverse(self.address, address)


def _started(world: World, name: str, network: str, settings: EndpointSettings | None = None) -> Container:
    container = world.container(
        name, network, also={network: settings or EndpointSettings()}, config=ContainerConfig(hostname=f"{name}-host")
    )
    world.allocator.acquire_all(container)
    return container


@pytest.fixture
async def web(world: World) -> Container:
    """A container on the network `front`, beside `db` with the alias `Store`, and `far` on another network."""
    await world.network("front", "10.20.0.0/24")
    await world.network("back", "10.21.0.0/24")
    _started(world, "db", "front", EndpointSettings(aliases=["Store"]))
    _started(world, "far", "back")
    return _started(world, "web", "front", EndpointSettings(links=["/db:linked", "far:away"]))


@pytest.mark.parametrize("name", ["db", "store", "db-host", "db.front", "store.front", "linked", "linked.front"])
async def test_a_name_on_the_same_network(world: World, web: Container, name: str) -> None:
    assert _Asker(world, web, "front")(name) == Answer(("10.20.0.2",))


async def test_the_containers_short_id_is_a_name(world: World, web: Container) -> None:
    (db,) = [one for one, _ in world.allocator.members(world.networks.get("front")) if one.record.name == "db"]
    assert _Asker(world, web, "front")(db.id[:12]) == Answer(("10.20.0.2",))
    assert dns_names(db, db.endpoints[0]) == ["db", "Store", db.id[:12], "db-host"]


@pytest.mark.parametrize("name", ["far", "away", "db.back", "nobody", "front", "example.com"])
async def test_another_name_goes_to_the_daemons_servers(world: World, web: Container, name: str) -> None:
    assert _Asker(world, web, "front")(name) == Answer(servers=("192.0.2.1",))


async def test_the_containers_own_servers_go_before_the_daemons(world: World, web: Container) -> None:
    web.record.host_config.dns = ["192.0.2.9"]
    assert _Asker(world, web, "front")("example.com") == Answer(servers=("192.0.2.9",))


async def test_a_name_on_two_networks_has_both_addresses(world: World) -> None:
    for name in ("front", "back"):
        await world.network(name)
    both = world.container("both", "front", also={"back": EndpointSettings()})
    other = world.container("other", "front", also={"back": EndpointSettings()})
    for container in (both, other):
        world.allocator.acquire_all(container)
    found = _Asker(world, both, "front")("other")
    assert found.addresses == tuple(endpoint.addresses[0].address for endpoint in other.endpoints)
    assert _Asker(world, both, "back")("other.back").addresses == (other.endpoints[1].addresses[0].address,)


async def test_ipv6_addresses(world: World) -> None:
    wanted = NetworkRecord("", "six", "bridge", 0, [Pool("10.22.0.0/24"), Pool("fd00:1::/64")], ipv6=True)
    await world.networks.create(wanted, unique=True)
    db, web = _started(world, "db", "six"), _started(world, "web", "six")
    asker = _Asker(world, web, "six")
    assert asker("db") == Answer(("10.22.0.2", "fd00:1::2"))
    assert [one.address for one in db.endpoints[0].addresses] == ["10.22.0.2", "fd00:1::2"]
    assert asker.reverse("fd00:1::2") == "db.six"


@pytest.mark.parametrize("name", ["host.docker.internal", "gateway.docker.internal"])
async def test_the_host_has_a_name(world: World, web: Container, name: str) -> None:
    assert _Asker(world, web, "front")(name) == Answer(("10.20.0.1",))


async def test_no_names_on_the_default_network(world: World) -> None:
    _started(world, "db", "bridge")
    web = _started(world, "web", "bridge")
    assert _Asker(world, web, "bridge")("db") == Answer(servers=("192.0.2.1",))
    assert _Asker(world, web, "bridge").reverse("10.11.0.2") is None


async def test_no_way_out_of_an_internal_network(world: World) -> None:
    wanted = NetworkRecord("", "inner", "bridge", 0, [Pool("10.22.0.0/24")], internal=True)
    await world.networks.create(wanted, unique=True)
    _started(world, "db", "inner")
    web = _started(world, "web", "inner")
    assert _Asker(world, web, "inner")("db") == Answer(("10.22.0.2",))
    assert _Asker(world, web, "inner")("example.com") == Answer(servers=())


async def test_a_stranger_gets_no_answer(world: World, web: Container) -> None:
    resolver = Resolver(world.allocator.endpoints, ("192.0.2.1",))
    front, back = world.networks.get("front"), world.networks.get("back")
    assert resolver.resolve(front.id, "10.20.0.77", "db") == Answer(servers=())
    # An address of another network is no address of this network's containers.
    assert resolver.resolve(front.id, "10.21.0.2", "db") == Answer(servers=())
    assert resolver.resolve(back.id, "10.21.0.2", "far") == Answer(("10.21.0.2",))
    assert resolver.reverse("10.20.0.77", "10.20.0.2") is None


async def test_names_of_addresses(world: World, web: Container) -> None:
    asker = _Asker(world, web, "front")
    assert asker.reverse("10.20.0.2") == "db.front"
    assert asker.reverse("10.21.0.2") is None


async def test_a_container_on_the_host_network_asks_at_the_default_network(world: World) -> None:
    container = world.container("web", "host", host_config=HostConfig(dns=["192.0.2.8"]))
    world.allocator.acquire_all(container)
    resolver = Resolver(world.allocator.endpoints, ())
    bridge = world.networks.get("bridge")
    assert resolver.resolve(bridge.id, "10.11.0.2", "example.com") == Answer(servers=("192.0.2.8",))
