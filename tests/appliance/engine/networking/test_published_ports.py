"""Ports of the host that lead to containers: taken at a start, released at the end or when the start fails."""

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config import ContainerNetwork
from appliance.container.config import ContainerConfig, Empty
from appliance.container.container_record import Binding
from appliance.container.host_config import HostConfig, PortBinding
from appliance.engine.model.container import Container
from appliance.engine.networking.networks import NetworkSettings
from appliance.engine.networking.published_ports import port_requests
from appliance.errors import InvalidParameter, VchError
from appliance.hypervisor import Forward
from appliance.network.firewall import Publication
from appliance.network.network_record import OPTION_HOST_IP
from tests.appliance.engine.networking.fake_networks import RecordingHost, World, networks_at, publishing

LOCAL = "127.0.0.1"


@pytest.fixture
def busy() -> Iterator[int]:
    """A port at which another program listens."""
    with socket.create_server((LOCAL, 0)) as listener:
        yield listener.getsockname()[1]


def _free(count: int = 1) -> int:
    """The first of `count` ports in a row that are free at all addresses. They differ from call to call, since tests run side by side."""
    while True:
        first = random.randrange(20_000, 32_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for number in range(first, first + count):
                for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                    probe = stack.enter_context(socket.socket(family))
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind((address, number))
            return first


def _local(port: str | int = "") -> list[PortBinding]:
    return [PortBinding(host_ip=LOCAL, host_port=str(port))]


def _started(world: World, name: str, host_config: HostConfig, network: str = "bridge") -> Container:
    container = world.container(name, network, host_config=host_config)
    world.allocator.acquire_all(container)
    return container


async def test_a_port_is_published_and_withdrawn(world: World) -> None:
    port = _free()
    container = _started(world, "web", publishing({"80/tcp": _local(port)}))
    assert container.record.bindings == [Binding("tcp", 80, LOCAL, port)]
    published = [Publication("tcp", LOCAL, port, "10.11.0.2", 80)]
    assert world.host.publications == world.allocator.published.all() == published
    with socket.socket() as probe, pytest.raises(OSError, match="in use"):
        probe.bind((LOCAL, port))
    world.allocator.release_all(container)
    assert container.record.bindings == []
    assert world.host.publications == world.allocator.published.all() == []
    with socket.socket() as probe:
        probe.bind((LOCAL, port))


async def test_any_port_of_the_host(world: World) -> None:
    container = _started(world, "web", publishing({"80/tcp": None, "53/udp": []}))
    four = {one.exposed: one.host_port for one in container.record.bindings if one.host_ip == "0.0.0.0"}
    assert set(four) == {"80/tcp", "53/udp"}
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert all(first <= port <= last for port in four.values())
    six = {one.exposed: one.host_port for one in container.record.bindings if one.host_ip == "::"}
    assert six in ({}, four)


async def test_two_containers_with_the_same_port(world: World) -> None:
    port = _free()
    first = _started(world, "a", publishing({"80/tcp": _local(port)}))
    second = world.container("b", host_config=publishing({"80/tcp": _local(port)}))
    with pytest.raises(VchError) as caught:
        world.allocator.acquire_all(second)
    text = r"driver failed programming external connectivity on endpoint b \([0-9a-f]{64}\): "
    assert caught.match(f"^{text}Bind for {LOCAL}:{port} failed: port is already allocated$")
    assert second.record.bindings == []
    assert len(world.host.publications) == 1
    # The same number of another protocol is another port.
    third = _started(world, "c", publishing({"80/udp": _local(port)}))
    assert third.record.bindings == [Binding("udp", 80, LOCAL, port)]
    world.allocator.release_all(first)
    world.allocator.acquire_all(second)
    assert second.record.bindings == [Binding("tcp", 80, LOCAL, port)]


async def test_an_address_conflicts_with_all_addresses(world: World) -> None:
    port = _free()
    _started(world, "a", publishing({"80/tcp": _local(port)}))
    with pytest.raises(VchError, match=rf"Bind for 0\.0\.0\.0:{port} failed: port is already allocated$"):
        _started(world, "b", publishing({"80/tcp": [PortBinding(host_port=str(port))]}))


async def test_a_port_of_another_program(world: World, busy: int) -> None:
    with pytest.raises(VchError, match=rf"failed to bind host port {LOCAL}:{busy}/tcp: address already in use$"):
        _started(world, "web", publishing({"80/tcp": _local(busy)}))


async def test_a_failed_start_releases_the_ports_that_it_had(world: World, busy: int) -> None:
    port = _free()
    with pytest.raises(VchError):
        _started(world, "web", publishing({"80/tcp": _local(port), "81/tcp": _local(busy)}))
    with socket.socket() as probe:
        probe.bind((LOCAL, port))


async def test_a_range_of_ports(world: World) -> None:
    first = _free(2)
    wanted = publishing({"80/tcp": _local(f"{first}-{first + 1}")})
    found = [_started(world, name, wanted).record.bindings[0].host_port for name in ("a", "b")]
    assert found == [first, first + 1]
    with pytest.raises(VchError, match=rf"Bind for {LOCAL}:{first + 1} failed: port is already allocated$"):
        _started(world, "c", wanted)


@pytest.mark.parametrize(
    ("exposed", "binding", "text"),
    [
        ("80/tcp", PortBinding(host_port="9-8"), "invalid port range: value: 9-8"),
        ("80/tcp", PortBinding(host_port="http"), "invalid port range: value: http"),
        ("80/tcp", PortBinding(host_port="65536"), "invalid port range: value: 65536"),
        ("80/tcp", PortBinding(host_ip="1.2.3"), "invalid IP address: 1.2.3"),
        ("0/tcp", PortBinding(), "invalid port specification: '0/tcp'"),
    ],
)
async def test_ports_that_are_refused(world: World, exposed: str, binding: PortBinding, text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        _started(world, "web", publishing({exposed: [binding]}))
    assert str(caught.value) == text


async def test_publish_all_ports(world: World) -> None:
    exposed = {"8001-8002/tcp": Empty(), "53/udp": Empty(), "80/tcp": None, "9/sctp": None}
    host_config = publishing({"80/tcp": _local(8080)})
    host_config.publish_all_ports = True
    container = world.container("web", config=ContainerConfig(exposed_ports=exposed), host_config=host_config)
    assert [(one.protocol, one.port, one.first) for one in port_requests(container)] == [
        ("tcp", 80, 8080),
        ("tcp", 8001, 0),
        ("tcp", 8002, 0),
        ("udp", 53, 0),
    ]


async def test_the_networks_address_for_published_ports(world: World) -> None:
    await world.network("front", **{OPTION_HOST_IP: LOCAL})
    container = _started(world, "web", publishing({"80/tcp": None}), "front")
    assert [one.host_ip for one in container.record.bindings] == [LOCAL]


async def test_no_port_without_a_network(world: World) -> None:
    container = _started(world, "web", publishing({"80/tcp": _local()}), "none")
    assert container.record.bindings == []
    assert world.host.publications == []


async def test_the_ports_of_the_host_network(world: World) -> None:
    published = world.allocator.published
    container = _started(world, "web", publishing({"80/tcp": _local()}), "host")
    assert container.record.bindings == []
    port = _free(2)
    other = port + 1
    published.publish_port(container, "tcp", port)
    published.publish_port(container, "tcp", other)
    assert {(one.port, one.host_port) for one in container.record.bindings} == {(port, port), (other, other)}
    with pytest.raises(VchError, match="port is already allocated"):
        published.publish_port(container, "tcp", port)
    published.unpublish_port(container, "tcp", port)
    assert {one.host_port for one in world.host.publications} == {other}
    published.publish_port(container, "tcp", port)
    world.allocator.release_all(container)
    assert world.host.publications == []


async def test_without_bridges_the_hypervisor_forwards(tmp_path: Path) -> None:
    async with networks_at(tmp_path, RecordingHost(bridged=False)) as world:
        port = _free()
        container = _started(world, "web", publishing({"80/tcp": _local(port)}))
        assert container.endpoints[0].nic.forwards == (Forward("tcp", LOCAL, port, "10.11.0.2", 80),)
        assert world.allocator.members(world.networks.get("bridge"))[0][1] is container.endpoints[0]
        # The hypervisor can listen at the port, and no other container gets it.
        with socket.create_server((LOCAL, port)), pytest.raises(VchError, match="port is already allocated"):
            _started(world, "b", publishing({"80/tcp": _local(port)}))


async def test_a_container_on_an_external_network_has_its_own_ports(tmp_path: Path) -> None:
    lan = ContainerNetwork("lan", "br-lan", "192.0.2.0/24", "192.0.2.1")
    async with networks_at(tmp_path, settings=NetworkSettings("vch0", "10.11.0.1/24", (), (lan,))) as world:
        container = _started(world, "web", publishing({"80/tcp": [PortBinding(host_port="80")]}), "lan")
        assert container.record.bindings == [Binding("tcp", 80, "192.0.2.2", 80)]
        assert world.host.publications == []
        assert container.endpoints[0].ports == (("tcp", 80),)
        with pytest.raises(
            InvalidParameter, match="port 80/tcp is published at this address and with this number only"
        ):
            _started(world, "b", publishing({"80/tcp": [PortBinding(host_port="8080")]}), "lan")
