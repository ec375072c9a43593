"""Networks are created, found and removed by Docker's rules, and are there again after a restart."""

from pathlib import Path

import msgspec
import pytest

from appliance.config import ContainerNetwork
from appliance.engine.networking.networks import NetworkSettings
from appliance.errors import Conflict, Forbidden, InvalidParameter, NotFound, NotInSwarm, Unavailable, Unsupported
from appliance.network.network_record import (
    OPTION_BRIDGE,
    OPTION_HOST_IP,
    OPTION_MTU,
    OVERLAY,
    SWARM,
    NetworkRecord,
    Pool,
)
from tests.appliance.engine.networking.fake_networks import RecordingHost, World, networks_at


async def test_three_networks_are_predefined(world: World) -> None:
    found = {record.name: record for record in world.networks.all()}
    assert {name: record.driver for name, record in found.items()} == {
        "bridge": "bridge",
        "host": "host",
        "none": "null",
    }
    assert (found["bridge"].pools, found["bridge"].bridge) == ([Pool("10.11.0.0/24", gateway="10.11.0.1")], "vch0")
    assert world.host.bridges == ["vch0"]
    assert world.networks.get("default") is found["bridge"]
    for name in found:
        with pytest.raises(Forbidden, match=rf"^{name} is a pre-defined network and cannot be removed$"):
            await world.networks.remove(name)
        with pytest.raises(Conflict, match=rf"^network with name {name} already exists$"):
            await world.networks.create(NetworkRecord("", name, "bridge", 0), unique=False)


async def test_a_network_gets_a_subnet_a_gateway_and_a_bridge(world: World) -> None:
    world.host.used = ["172.17.0.0/16", "172.18.4.0/24"]
    front, back = await world.network("front"), await world.network("back")
    assert front.pools == [Pool("172.19.0.0/16", gateway="172.19.0.1")]
    assert back.pools == [Pool("172.20.0.0/16", gateway="172.20.0.1")]
    assert front.bridge == f"br-{front.id[:12]}"
    assert world.host.bridges == ["vch0", front.bridge, back.bridge]
    assert world.actions() == [("create", "front"), ("create", "back")]
    await world.networks.remove("front")
    assert world.host.bridges == ["vch0", back.bridge]
    assert world.actions()[-1] == ("destroy", "front")
    with pytest.raises(NotFound, match=r"^network front not found$"):
        world.networks.get("front")
    # The subnet is free again.
    assert (await world.network("next")).pools[0].subnet == "172.19.0.0/16"


async def test_ipv6(world: World) -> None:
    wanted = NetworkRecord("", "six", "bridge", 0, ipv6=True)
    record = await world.networks.create(wanted, unique=True)
    four, six = record.pools
    assert ":" not in four.subnet
    assert six.subnet.startswith("fd")
    assert six.subnet.endswith("::/64")
    assert six.gateway == six.subnet.removesuffix("/64") + "1"


@pytest.mark.parametrize(
    ("pools", "error", "text"),
    [
        (
            [Pool("10.11.0.128/25")],
            Forbidden,
            "invalid pool request: Pool overlaps with other one on this address space",
        ),
        (
            [Pool("10.20.0.0/16"), Pool("10.20.1.0/24")],
            Forbidden,
            "invalid pool request: Pool overlaps with other one on this address space",
        ),
        ([Pool("10.20.0.0/31")], InvalidParameter, "invalid subnet 10.20.0.0/31: too few addresses"),
        ([Pool("10.20.0.0/33")], InvalidParameter, "invalid subnet 10.20.0.0/33: invalid CIDR block notation"),
        (
            [Pool("10.20.0.0/24", "10.21.0.0/24")],
            InvalidParameter,
            "invalid ip-range 10.21.0.0/24: it is not part of subnet 10.20.0.0/24",
        ),
    ],
)
async def test_subnets_that_are_refused(world: World, pools: list[Pool], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        await world.networks.create(NetworkRecord("", "front", "bridge", 0, pools), unique=True)
    assert str(caught.value) == text
    assert len(world.networks.all()) == 3
    assert world.host.bridges == ["vch0"]


@pytest.mark.parametrize(
    ("wanted", "error", "text"),
    [
        (
            NetworkRecord("", "n", "macvlan", 0),
            NotFound,
            "could not find plugin macvlan in v1 plugin registry: plugin not found",
        ),
        (NetworkRecord("", "n", "external", 0), Forbidden, "external networks come from the settings of vchd"),
        (NetworkRecord("", "n", OVERLAY, 0, scope=SWARM), NotInSwarm, "This node is not a swarm manager. Use"),
        (NetworkRecord("", "n", "bridge", 0, ingress=True), InvalidParameter, "an ingress network needs the driver"),
        (NetworkRecord("", "n", "bridge", 0, options={"x": "y"}), InvalidParameter, "network option x is not supp"),
        (
            NetworkRecord("", "n", "bridge", 0, options={OPTION_BRIDGE: "b" * 16}),
            InvalidParameter,
            f"invalid bridge name {'b' * 16}: 1 to 15 characters",
        ),
        (
            NetworkRecord("", "n", "bridge", 0, options={OPTION_HOST_IP: "::1"}),
            InvalidParameter,
            f"invalid value for {OPTION_HOST_IP}: ::1",
        ),
        (
            NetworkRecord("", "n", "bridge", 0, options={OPTION_BRIDGE: "vch0"}),
            Forbidden,
            "bridge name vch0 is used by another network",
        ),
    ],
)
async def test_drivers_and_options_that_are_refused(
    world: World, wanted: NetworkRecord, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        await world.networks.create(msgspec.structs.replace(wanted), unique=True)
    assert str(caught.value).startswith(text)
    assert len(world.networks.all()) == 3


async def test_networks_of_the_same_name(world: World) -> None:
    first = await world.network("front")
    with pytest.raises(Conflict, match=r"^network with name front already exists$"):
        await world.network("front")
    second = await world.networks.create(NetworkRecord("", "front", "bridge", 0), unique=False)
    with pytest.raises(InvalidParameter, match=r"^network front is ambiguous \(2 matches found on name\)$"):
        world.networks.get("front")
    assert world.networks.get(second.id[:20]) is second
    await world.networks.remove(first.id)
    assert world.networks.get("front") is second


async def test_an_id_prefix_of_two_networks(world: World) -> None:
    front, back = await world.network("front"), await world.network("back")
    front.id, back.id = "ab1", "ab2"
    world.networks._records = {record.id: record for record in (front, back)}
    with pytest.raises(InvalidParameter, match=r"^network ab is ambiguous \(2 matches found based on ID prefix\)$"):
        world.networks.get("ab")
    assert world.networks.get("ab2") is back


async def test_a_network_in_use(world: World) -> None:
    record = await world.network("front")
    container = world.container("web", "front")
    world.allocator.acquire_all(container)
    text = f"error while removing network: network front id {record.id} has active endpoints"
    with pytest.raises(Forbidden) as caught:
        await world.networks.remove("front")
    assert str(caught.value) == text
    assert [member for member, _ in world.networks.members(record)] == [container]
    world.allocator.release_all(container)
    await world.networks.remove("front")
    assert record not in world.networks.all()


async def test_prune_removes_what_no_container_uses(world: World) -> None:
    for name in ("used", "idle", "labelled"):
        await world.network(name)
    world.networks.get("labelled").labels["keep"] = ""
    world.allocator.acquire_all(world.container("web", "used"))
    assert await world.networks.prune(lambda record: "keep" not in record.labels) == ["idle"]
    assert {record.name for record in world.networks.all()} == {"bridge", "host", "none", "used", "labelled"}
    assert world.actions()[-1] == ("prune", "")


async def test_a_bridge_that_cannot_be_made_leaves_nothing(world: World) -> None:
    world.host.refuses = "no room for a bridge"
    with pytest.raises(Unavailable, match="no room for a bridge"):
        await world.network("front", "10.20.0.0/24")
    assert len(world.networks.all()) == 3
    assert world.actions() == []
    assert (await world.network("front", "10.20.0.0/24")).pools[0].gateway == "10.20.0.1"


async def test_a_bridge_that_cannot_be_removed_leaves_the_network(world: World) -> None:
    record = await world.network("front")
    world.host.refuses = "the bridge is busy"
    with pytest.raises(Unavailable, match="the bridge is busy"):
        await world.networks.remove("front")
    assert world.networks.get("front") is record
    assert world.networks.members(record) == []
    await world.networks.remove("front")
    assert world.host.bridges == ["vch0"]


async def test_networks_are_there_after_a_restart(tmp_path: Path) -> None:
    host = RecordingHost()
    async with networks_at(tmp_path, host) as world:
        record = await world.network("front", "10.20.0.0/24", **{OPTION_MTU: "1400"})
        gone = await world.network("gone")
        await world.networks.remove("gone")
        before = [msgspec.json.encode(one) for one in world.networks.all()]
    # A bridge of a killed daemon that no network has.
    host.bridges.append(gone.bridge)
    async with networks_at(tmp_path, host) as world:
        assert sorted(msgspec.json.encode(one) for one in world.networks.all()) == sorted(before)
        assert world.networks.get(record.id).mtu == 1400
        assert host.bridges == ["vch0", record.bridge]
        with pytest.raises(Forbidden, match="Pool overlaps"):
            await world.network("other", "10.20.0.0/24")


async def test_the_default_network_follows_the_settings(tmp_path: Path) -> None:
    async with networks_at(tmp_path) as world:
        before = world.networks.get("bridge").id
    async with networks_at(tmp_path, settings=NetworkSettings("br9", "10.30.0.9/16")) as world:
        record = world.networks.get("bridge")
        assert (record.id, record.bridge) == (before, "br9")
        assert record.pools == [Pool("10.30.0.0/16", gateway="10.30.0.9")]
    async with networks_at(tmp_path, settings=NetworkSettings("br9")) as world:
        assert world.networks.get("bridge").pools == [Pool("10.30.0.0/16", gateway="10.30.0.9")]


@pytest.mark.parametrize("bip", ["10.30.0.1/29", "fd00::1/64", "x"])
async def test_a_default_address_that_does_not_work(tmp_path: Path, bip: str) -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(InvalidParameter, match=rf"^invalid --bip {bip}: "), flatten_subgroups=True
    ):
        async with networks_at(tmp_path, settings=NetworkSettings("vch0", bip)):
            pass


async def test_without_bridges_no_network_is_created(tmp_path: Path) -> None:
    async with networks_at(tmp_path, RecordingHost(bridged=False)) as world:
        assert not world.networks.bridged
        with pytest.raises(Unsupported, match=r"^networks need bridges"):
            await world.network("front")


async def test_networks_share_one_bridge_where_machines_are_elsewhere(tmp_path: Path) -> None:
    async with networks_at(tmp_path, RecordingHost(shared_bridge="vch0")) as world:
        assert (await world.network("front")).bridge == "vch0"
        with pytest.raises(InvalidParameter, match="all networks share one bridge here"):
            await world.network("back", **{OPTION_MTU: "1400"})


async def test_external_networks_follow_the_settings(tmp_path: Path) -> None:
    lan = ContainerNetwork("lan", "br-lan", "192.0.2.0/24", "192.0.2.1", "", ("192.0.2.53",), "open")
    async with networks_at(tmp_path, settings=NetworkSettings("vch0", "10.11.0.1/24", (), (lan,))) as world:
        record = world.networks.get("lan")
        assert (record.bridge, record.dns, record.firewall) == ("br-lan", ["192.0.2.53"], "open")
        assert not record.internal
        # vchd does not make the bridge.
        assert world.host.bridges == ["vch0"]
        with pytest.raises(Forbidden, match=r"^lan is a pre-defined network and cannot be removed$"):
            await world.networks.remove("lan")
    async with networks_at(tmp_path) as world:
        with pytest.raises(NotFound):
            world.networks.get("lan")


async def test_bridges_stay_while_containers_run(world: World) -> None:
    container = world.container("web")
    world.allocator.acquire_all(container)
    await world.networks.close()
    assert world.host.bridges == ["vch0"]
    world.allocator.release_all(container)
    await world.networks.close()
    assert world.host.bridges == []
