"""Endpoints are planned at a container's creation, acquired at its start, all or none, and released at its end."""

from pathlib import Path

import pytest

from appliance.container.config import ContainerConfig
from appliance.container.endpoint_settings import EndpointIPAMConfig, EndpointSettings
from appliance.container.host_config import HostConfig, PortBinding
from appliance.errors import Forbidden, InvalidParameter, NotFound, Unavailable, VchError
from appliance.hypervisor import NO_BRIDGE, Nic
from appliance.network.network_record import NetworkRecord, Pool
from tests.appliance.engine.networking.fake_networks import RecordingHost, World, fixed, networks_at, publishing

SETTINGS = "invalid endpoint settings:\n"


async def test_an_endpoint_has_an_address_a_mac_and_a_nic(world: World) -> None:
    container = world.container("web")
    world.allocator.acquire_all(container)
    (endpoint,) = container.endpoints
    assert endpoint.ipv4 is not None
    assert (endpoint.ipv4.cidr, endpoint.ipv4.gateway, endpoint.ipv6) == ("10.11.0.2/24", "10.11.0.1", None)
    assert (endpoint.mac, endpoint.interface, endpoint.dns) == ("02:42:0a:0b:00:02", "eth0", "10.11.0.1")
    assert endpoint.nic == Nic("02:42:0a:0b:00:02", bridge="vch0")
    (attachment,) = container.record.attachments
    assert (attachment.address, attachment.mac, attachment.interface) == ("10.11.0.2", endpoint.mac, "eth0")
    assert attachment.endpoint == endpoint.id
    assert len(endpoint.id) == 64
    assert world.allocator.release_all(container) == [endpoint]
    assert container.endpoints == []
    assert world.allocator.members(endpoint.network) == []
    assert (attachment.address, attachment.mac, attachment.endpoint) == ("", "", "")


async def test_a_released_address_is_not_reused_at_once(world: World) -> None:
    first, second = world.container("a"), world.container("b")
    world.allocator.acquire_all(first)
    world.allocator.release_all(first)
    world.allocator.acquire_all(second)
    assert second.record.attachments[0].address == "10.11.0.3"


async def test_several_networks(world: World) -> None:
    await world.network("front", "10.20.0.0/24")
    await world.network("back", "10.21.0.0/24")
    container = world.container("web", "front", also={"back": EndpointSettings(mac_address="02:00:00:00:00:AA")})
    world.allocator.acquire_all(container)
    assert [(one.network.name, one.interface) for one in container.endpoints] == [("front", "eth0"), ("back", "eth1")]
    assert container.endpoints[1].mac == "02:00:00:00:00:aa"
    # A NIC that goes leaves its name to the next.
    world.allocator.release(container, container.endpoints[0])
    world.allocator.acquire(container, container.record.attachments[0])
    assert container.endpoints[-1].interface == "eth0"


async def test_all_endpoints_or_none(world: World) -> None:
    record = await world.network("front", "10.20.0.0/24")
    other = world.container("other", "front", also={"front": fixed("10.20.0.9")})
    world.allocator.acquire_all(other)
    container = world.container("web", also={"front": fixed("10.20.0.9")})
    with pytest.raises(Forbidden, match=r"^Address already in use$"):
        world.allocator.acquire_all(container)
    assert container.endpoints == []
    assert world.allocator.members(world.networks.get("bridge")) == []
    assert [member for member, _ in world.allocator.members(record)] == [other]
    assert all(not attachment.endpoint for attachment in container.record.attachments)
    world.allocator.release_all(other)
    world.allocator.acquire_all(container)
    assert container.record.attachments[1].address == "10.20.0.9"


async def test_a_port_in_use_releases_the_endpoints(world: World) -> None:
    first = world.container("a", host_config=publishing({"80/tcp": [PortBinding(host_ip="127.0.0.1")]}))
    world.allocator.acquire_all(first)
    number = str(first.record.bindings[0].host_port)
    second = world.container("b", host_config=publishing({"80/tcp": [PortBinding(host_port=number)]}))
    with pytest.raises(VchError, match="port is already allocated"):
        world.allocator.acquire_all(second)
    assert second.endpoints == []
    assert [member for member, _ in world.allocator.members(world.networks.get("bridge"))] == [first]


async def test_an_address_of_the_wrong_kind_releases_what_was_taken(world: World) -> None:
    """The IPv4 address is free again when the IPv6 address is refused."""
    wanted = NetworkRecord("", "six", "bridge", 0, [Pool("10.20.0.0/29"), Pool("fd00:1::/64")], ipv6=True)
    wanted.own_subnet = True
    record = await world.networks.create(wanted, unique=True)
    holder = world.container("a", "six", also={"six": fixed("10.20.0.3", "fd00:1::9")})
    world.allocator.acquire_all(holder)
    for _ in range(10):
        container = world.container("b", "six", also={"six": fixed("10.20.0.4", "fd00:1::9")})
        with pytest.raises(Forbidden, match=r"^Address already in use$"):
            world.allocator.acquire_all(container)
    free = world.container("c", "six", also={"six": fixed("10.20.0.4")})
    world.allocator.acquire_all(free)
    assert [one.address for one in free.endpoints[0].addresses] == ["10.20.0.4", "fd00:1::2"]
    assert len(world.allocator.members(record)) == 2


async def test_a_small_network_runs_out_of_addresses(world: World) -> None:
    await world.network("tiny", "10.20.0.0/29")
    containers = [world.container(f"c{number}", "tiny") for number in range(6)]
    for container in containers[:5]:
        world.allocator.acquire_all(container)
    assert [one.record.attachments[0].address for one in containers[:5]] == [f"10.20.0.{n}" for n in range(2, 7)]
    with pytest.raises(Unavailable, match=r"^no available IPv4 addresses on this network's address pools: tiny \("):
        world.allocator.acquire_all(containers[5])
    world.allocator.release_all(containers[1])
    world.allocator.acquire_all(containers[5])
    assert containers[5].record.attachments[0].address == "10.20.0.3"


async def test_a_network_that_does_not_exist_fails_the_start(world: World) -> None:
    container = world.container("web", "later")
    with pytest.raises(NotFound, match=r"^network later not found$"):
        world.allocator.acquire_all(container)
    record = await world.network("later")
    world.allocator.acquire_all(container)
    assert container.record.attachments[0].network_id == record.id


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            EndpointSettings(aliases=["a"]),
            f"{SETTINGS}network-scoped aliases are only supported for user-defined networks",
        ),
        (
            fixed("10.11.0.9"),
            f"{SETTINGS}user specified IP address is supported only when connecting to networks with user configured subnets",
        ),
        (fixed("10.11.0"), f"{SETTINGS}invalid IPv4 address: 10.11.0"),
    ],
)
async def test_settings_that_the_default_network_refuses(world: World, settings: EndpointSettings, text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        world.container("web", also={"bridge": settings})
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (fixed("10.21.0.9"), f"{SETTINGS}no configured subnet contains IP address 10.21.0.9"),
        (fixed("fd00::9"), f"{SETTINGS}no configured subnet contains IP address fd00::9"),
        (
            EndpointSettings(ipam_config=EndpointIPAMConfig(ipv6_address="x")),
            f"{SETTINGS}invalid IPv6 address: x",
        ),
    ],
)
async def test_addresses_that_a_network_refuses(world: World, settings: EndpointSettings, text: str) -> None:
    await world.network("front", "10.20.0.0/24")
    world.container("web", "front", also={"front": EndpointSettings(aliases=["a"])})
    with pytest.raises(InvalidParameter) as caught:
        world.container("web", "front", also={"front": settings})
    assert str(caught.value) == text


async def test_plans(world: World) -> None:
    record = await world.network("front")
    container = world.container("web", record.id[:12], host_config=HostConfig(links=["db:database"]))
    assert [(one.network, one.network_id) for one in container.record.attachments] == [("front", record.id)]
    assert container.record.attachments[0].wanted.links == ["db:database"]
    plain = world.container("web", config=ContainerConfig(mac_address="02:00:00:00:00:01"))
    assert plain.record.attachments[0].wanted.mac_address == "02:00:00:00:00:01"
    silent = world.container("web", config=ContainerConfig(network_disabled=True))
    assert [one.network for one in silent.record.attachments] == ["none"]
    assert world.container("beside", "container:web").record.attachments == []
    for mode in (None, "", "default", "bridge"):
        config, host_config = ContainerConfig(), HostConfig(network_mode=mode)
        only = world.allocator.plan(config, host_config, {record.id: EndpointSettings(aliases=["a"])})
        assert [one.network for one in only] == ["front"]
        both = world.allocator.plan(config, host_config, {"front": EndpointSettings(), "bridge": EndpointSettings()})
        assert [one.network for one in both] == ["bridge", "front"]
    for mode in ("none", "host"):
        with pytest.raises(InvalidParameter, match="cannot attach both user-defined and non-user-defined"):
            world.container("web", mode, also={"front": EndpointSettings()})


async def test_no_network(world: World) -> None:
    container = world.container("web", "none")
    world.allocator.acquire_all(container)
    (endpoint,) = container.endpoints
    assert (endpoint.interface, endpoint.mac, endpoint.addresses) == ("", "", [])


async def test_the_host_network_lives_on_the_default_network(world: World) -> None:
    container = world.container("web", "host")
    world.allocator.acquire_all(container)
    (endpoint,) = container.endpoints
    assert endpoint.network.name == "host"
    assert (endpoint.nic.bridge, container.record.attachments[0].address) == ("vch0", "10.11.0.2")
    world.allocator.release_all(container)
    others = [world.container(f"c{number}") for number in range(253)]
    for other in others:
        world.allocator.acquire_all(other)
    assert "10.11.0.2" in {other.record.attachments[0].address for other in others}


async def test_an_ip_range_and_auxiliary_addresses(world: World) -> None:
    pool = Pool("10.20.0.0/24", "10.20.0.64/30", "", {"router": "10.20.0.65"})
    await world.networks.create(NetworkRecord("", "front", "bridge", 0, [pool], own_subnet=True), unique=True)
    found = []
    for number in range(3):
        container = world.container(f"c{number}", "front")
        world.allocator.acquire_all(container)
        found.append(container.record.attachments[0].address)
    assert found == ["10.20.0.64", "10.20.0.66", "10.20.0.67"]


async def test_a_running_container_keeps_its_endpoint_over_a_restart(tmp_path: Path) -> None:
    async with networks_at(tmp_path) as world:
        await world.network("front", "10.20.0.0/24")
        container = world.container("web", "front", host_config=publishing({"80/tcp": None}))
        world.allocator.acquire_all(world.container("earlier", "front"))
        world.allocator.acquire_all(container)
        (before,) = container.endpoints
        bindings = container.record.bindings
    container.endpoints = []
    async with networks_at(tmp_path) as world:
        world.allocator.reacquire_all(container)
        (after,) = container.endpoints
        assert (after.id, after.mac, after.ipv4, after.interface) == (before.id, before.mac, before.ipv4, "eth0")
        assert container.record.bindings == bindings
        assert {one.host_port for one in world.host.publications} == {one.host_port for one in bindings}
        other = world.container("other", "front", also={"front": fixed("10.20.0.3")})
        with pytest.raises(Forbidden, match=r"^Address already in use$"):
            world.allocator.acquire_all(other)
        world.allocator.release_all(container)
        world.allocator.acquire_all(other)


async def test_a_running_container_whose_network_is_gone(tmp_path: Path) -> None:
    async with networks_at(tmp_path) as world:
        await world.network("front")
        container = world.container("web", "front")
        world.allocator.acquire_all(container)
        world.networks.allocator.release_all(container)
        await world.networks.remove("front")
        world.allocator.reacquire_all(container)
        assert container.endpoints == []


async def test_machines_without_a_container(world: World) -> None:
    bridge = world.networks.get("bridge")
    blank = world.allocator.blank
    assert (blank.nic.bridge, blank.ipv4 and blank.ipv4.address) == (NO_BRIDGE, "10.11.0.254")
    with world.allocator.for_file_session() as first, world.allocator.for_file_session() as second:
        assert first.ipv4 is not None
        assert second.ipv4 is not None
        assert (first.ipv4.address, second.ipv4.address) == ("10.11.0.2", "10.11.0.3")
        assert first.nic.bridge == "vch0"
        assert world.allocator.members(bridge) == []


async def test_user_mode_networking_reserves_its_name_server(tmp_path: Path) -> None:
    async with networks_at(tmp_path, RecordingHost(bridged=False)) as world:
        containers = [world.container(f"c{number}") for number in range(253)]
        for container in containers[:252]:
            world.allocator.acquire_all(container)
        assert containers[0].endpoints[0].nic == Nic("02:42:0a:0b:00:02", "10.11.0.0/24", "10.11.0.1", "10.11.0.254")
        assert containers[0].endpoints[0].dns == "10.11.0.254"
        assert "10.11.0.254" not in {one.record.attachments[0].address for one in containers[:252]}
        with pytest.raises(Unavailable):
            world.allocator.acquire_all(containers[252])
