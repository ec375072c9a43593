"""A swarm of one node: begin, leave, update, and the overlay networks that need it."""

import ipaddress
import re
import socket
from pathlib import Path

import msgspec
import pytest

from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.networking.connections import Connections
from appliance.engine.networking.dhcp_leases import DhcpLeases
from appliance.engine.networking.swarm import Swarm
from appliance.errors import Conflict, Forbidden, InvalidParameter, NotFound, NotInSwarm, Unavailable
from appliance.network.network_record import OVERLAY, SWARM, NetworkRecord
from tests.appliance.engine.networking.fake_networks import World, networks_at

SPEC = msgspec.Raw(b'{"Name":"default"}')
NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and '
    "try again."
)


def _swarm(world: World, registry: ContainerRegistry | None = None) -> Swarm:
    repository = ContainerRepository(world.database, world.events)
    leases = DhcpLeases(world.networks, repository)
    connections = Connections(registry or ContainerRegistry(), repository, world.networks, leases, ())
    return Swarm(world.database, world.networks, connections)


async def _begun(world: World, registry: ContainerRegistry | None = None) -> Swarm:
    swarm = _swarm(world, registry)
    await swarm.begin("192.0.2.5", "0.0.0.0:2377", SPEC, (), 0)
    return swarm


def _overlay(name: str, *, attachable: bool = False) -> NetworkRecord:
    return NetworkRecord("", name, OVERLAY, 0, scope=SWARM, attachable=attachable)


async def test_outside_of_a_swarm(world: World) -> None:
    swarm = _swarm(world)
    assert swarm.record is None
    with pytest.raises(NotInSwarm) as caught:
        swarm.manager()
    assert str(caught.value) == NO_MANAGER
    with pytest.raises(NotInSwarm, match=r"^This node is not part of a swarm$"):
        await swarm.leave(force=True)
    with pytest.raises(NotInSwarm, match=r"^This node is not a swarm manager"):
        await world.networks.create(_overlay("over"), unique=True)


async def test_a_swarm_begins_with_its_ingress_network(world: World) -> None:
    swarm = await _begun(world)
    record = swarm.manager()
    assert (record.address, record.listen, record.version) == ("192.0.2.5", "192.0.2.5:2377", 1)
    assert (record.pools, record.subnet_bits, bytes(record.spec)) == (["10.0.0.0/8"], 24, bytes(SPEC))
    assert re.fullmatch("[0-9a-z]{25}", record.id)
    assert re.fullmatch("[0-9a-z]{25}", record.node_id)
    ingress = world.networks.get("ingress")
    assert (ingress.driver, ingress.scope, ingress.pools[0].subnet) == (OVERLAY, SWARM, "10.0.0.0/24")
    # Nothing is published through it: it has no bridge on the host.
    assert world.host.bridges == ["vch0"]
    with pytest.raises(NotInSwarm, match=r"^This node is already part of a swarm\."):
        await swarm.begin("192.0.2.5", "", SPEC, (), 0)
    with pytest.raises(Conflict, match=r"ingress network \([0-9a-f]{64}\) is already present$"):
        await world.networks.create(NetworkRecord("", "second", OVERLAY, 0, scope=SWARM, ingress=True), unique=True)


async def test_overlay_networks(world: World) -> None:
    await _begun(world)
    record = await world.networks.create(_overlay("over", attachable=True), unique=True)
    # 10.11.0.0/24 is the default network's.
    assert record.pools[0].subnet == "10.0.1.0/24"
    container = world.container("web", "over")
    world.allocator.acquire_all(container)
    assert container.record.attachments[0].address == "10.0.1.2"
    with pytest.raises(Forbidden, match=r"^cannot downgrade network scope for overlay networks$"):
        await world.networks.create(NetworkRecord("", "local", OVERLAY, 0), unique=True)
    await world.networks.create(_overlay("closed"), unique=True)
    with pytest.raises(Forbidden, match=r"network closed not manually attachable$"):
        world.allocator.acquire_all(world.container("other", "closed"))


async def test_pools_of_the_client(world: World) -> None:
    swarm = _swarm(world)
    await swarm.begin("192.0.2.5", "", SPEC, ["10.40.0.0/15", "10.50.0.0/16"], 16)
    found = [world.networks.get("ingress").pools[0].subnet]
    for name in ("a", "b"):
        found.append((await world.networks.create(_overlay(name), unique=True)).pools[0].subnet)
    assert found == ["10.40.0.0/16", "10.41.0.0/16", "10.50.0.0/16"]
    with pytest.raises(InvalidParameter, match="all predefined address pools have been fully subnetted"):
        await world.networks.create(_overlay("c"), unique=True)


@pytest.mark.parametrize(
    ("advertise", "listen", "pools", "bits", "text"),
    [
        ("192.0.2.5:0", "", (), 0, "invalid port in '192.0.2.5:0'"),
        ("192.0.2.5:x", "", (), 0, "invalid port in '192.0.2.5:x'"),
        (
            "nothing0",
            "",
            (),
            0,
            "advertise address must be a non-zero IP address or network interface (with optional port number)",
        ),
        ("192.0.2.5", "", ["10.0.0.0/24"], 16, "invalid default address pool 10.0.0.0/24 of /16 subnets"),
        ("192.0.2.5", "", ["10.0.0.0/8"], 30, "invalid default address pool 10.0.0.0/8 of /30 subnets"),
        ("192.0.2.5", "", ["fd00::/64"], 64, "invalid default address pool fd00::/64 of /64 subnets"),
    ],
)
async def test_a_swarm_that_cannot_begin(
    world: World, advertise: str, listen: str, pools: list[str], bits: int, text: str
) -> None:
    swarm = _swarm(world)
    with pytest.raises(InvalidParameter) as caught:
        await swarm.begin(advertise, listen, SPEC, pools, bits)
    assert str(caught.value) == text
    assert swarm.record is None
    assert len(world.networks.all()) == 3


@pytest.mark.parametrize(
    ("advertise", "listen", "expected"),
    [
        ("192.0.2.5:4000", "", "192.0.2.5:4000"),
        ("192.0.2.5", "0.0.0.0:5000", "192.0.2.5:5000"),
        ("lo", "", "127.0.0.1:2377"),
    ],
)
async def test_addresses(world: World, advertise: str, listen: str, expected: str) -> None:
    record = await _swarm(world).begin(advertise, listen, SPEC, (), 0)
    assert record.listen == expected
    assert ipaddress.ip_address(record.address)


async def test_a_failed_begin_leaves_no_swarm(world: World) -> None:
    await world.network("ingress")
    swarm = _swarm(world)
    with pytest.raises(Conflict, match=r"^network with name ingress already exists$"):
        await swarm.begin("192.0.2.5", "", SPEC, (), 0)
    assert swarm.record is None
    with pytest.raises(NotInSwarm):
        await world.networks.create(_overlay("over"), unique=True)


async def test_a_swarm_is_there_after_a_restart(tmp_path: Path) -> None:
    async with networks_at(tmp_path) as world:
        before = (await _begun(world)).manager()
        over = await world.networks.create(_overlay("over"), unique=True)
    async with networks_at(tmp_path) as world:
        swarm = _swarm(world)
        assert msgspec.json.encode(swarm.record) == msgspec.json.encode(before)
        assert world.networks.get("over") == over
        assert (await world.networks.create(_overlay("next"), unique=True)).pools[0].subnet == "10.0.2.0/24"


async def test_leave_removes_the_networks(world: World) -> None:
    registry = ContainerRegistry()
    swarm = await _begun(world, registry)
    await world.networks.create(_overlay("over", attachable=True), unique=True)
    container = world.container("web", "over")
    registry.take_name("web", container.id)
    registry.add(container)
    with pytest.raises(NotInSwarm, match="Use `--force` to ignore this message"):
        await swarm.leave(force=False)
    await swarm.leave(force=True)
    assert swarm.record is None
    assert {record.name for record in world.networks.all()} == {"bridge", "host", "none"}
    assert world.database.load("swarm") == {}


async def test_a_leave_that_fails_can_be_repeated(world: World) -> None:
    swarm = await _begun(world)
    await world.networks.create(_overlay("over"), unique=True)
    world.host.refuses = "the bridge is busy"
    with pytest.raises(Unavailable):
        await swarm.leave(force=True)
    assert swarm.record is not None
    await swarm.leave(force=True)
    assert len(world.networks.all()) == 3


async def test_updates_are_in_sequence(world: World) -> None:
    swarm = await _begun(world)
    record = swarm.manager()
    spec = msgspec.Raw(b'{"Name":"default","Labels":{"a":"b"}}')
    await swarm.update(1, spec)
    assert (record.version, bytes(record.spec)) == (2, bytes(spec))
    with pytest.raises(InvalidParameter, match=r"^rpc error: code = Unknown desc = update out of sequence$"):
        await swarm.update(1, SPEC)
    await swarm.update_node(record.node_id[:8], 2, {"disk": "ssd"})
    assert (record.version, record.node.labels) == (3, {"disk": "ssd"})
    assert record.updated > record.created


async def test_nodes(world: World) -> None:
    swarm = await _begun(world)
    record = swarm.manager()
    for ref in ("self", socket.gethostname(), record.node_id, record.node_id[:3]):
        assert swarm.check_node(ref) is record
    for ref in ("", "nobody!"):
        with pytest.raises(NotFound, match=rf"^node {ref} not found$"):
            swarm.check_node(ref)
