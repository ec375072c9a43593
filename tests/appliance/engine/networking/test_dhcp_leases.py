"""Addresses that DHCP servers give containers on external networks, as their guests report them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from appliance.config import ContainerNetwork
from appliance.container.endpoint_settings import EndpointSettings
from appliance.container.host_config import PortBinding
from appliance.engine.model.container import Container
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.networking.dhcp_leases import DhcpLeases
from appliance.engine.networking.networks import NetworkSettings
from appliance.guest import Lease
from appliance.network.network_record import Address
from tests.appliance.engine.networking.fake_networks import World, networks_at, publishing

LEASE = Lease("eth0", "192.0.2.9/24", "192.0.2.1", ("192.0.2.53",), ("example.org",))


@pytest.fixture
async def lan(tmp_path: Path) -> AsyncIterator[World]:
    """A daemon with the external network `lan`, which has a DHCP server."""
    settings = NetworkSettings("vch0", "10.11.0.1/24", (), (ContainerNetwork("lan", "br-lan"),))
    with trio.fail_after(20):
        async with networks_at(tmp_path, settings=settings) as world:
            yield world


def _leases(world: World) -> DhcpLeases:
    return DhcpLeases(world.networks, ContainerRepository(world.database, world.events))


def _container(world: World) -> Container:
    container = world.container("web", "lan", host_config=publishing({"80/tcp": [PortBinding(host_port="80")]}))
    world.allocator.acquire_all(container)
    assert container.endpoints[0].addresses == []
    return container


async def test_a_lease_is_the_containers_address(lan: World) -> None:
    container, leases = _container(lan), _leases(lan)
    assert leases.take(container, [LEASE])
    (endpoint,) = container.endpoints
    assert endpoint.ipv4 == Address("192.0.2.9", 24, "192.0.2.1")
    assert (endpoint.servers, endpoint.search) == (("192.0.2.53",), ("example.org",))
    assert container.record.attachments[0].address == "192.0.2.9"
    assert [(one.host_ip, one.host_port) for one in container.record.bindings] == [("192.0.2.9", 80)]
    assert lan.networks.members(endpoint.network) == [(container, endpoint)]
    assert not leases.take(container, [LEASE])
    lan.allocator.release_all(container)
    assert lan.networks.members(endpoint.network) == []


async def test_a_lease_changes_and_ends(lan: World) -> None:
    container, leases = _container(lan), _leases(lan)
    leases.take(container, [LEASE])
    assert leases.take(container, [Lease("eth0", "192.0.2.10/24", "", (), ())])
    assert container.endpoints[0].ipv4 == Address("192.0.2.10", 24, "")
    assert container.endpoints[0].servers == ()
    assert leases.take(container, [])
    assert container.endpoints[0].ipv4 is None
    assert container.record.attachments[0].address == ""
    assert not leases.take(container, [])


@pytest.mark.parametrize(
    "lease",
    [
        Lease("eth0", "no address", "", (), ()),
        Lease("eth0", "192.0.2.9/24", "no gateway", (), ()),
        Lease("eth0", "192.0.2.9/24", "", ("no server",), ()),
        Lease("eth9", "192.0.2.9/24", "", (), ()),
    ],
)
async def test_a_lease_that_is_no_lease(lan: World, lease: Lease) -> None:
    container = _container(lan)
    assert not _leases(lan).take(container, [lease])
    assert container.endpoints[0].ipv4 is None


async def test_a_guest_cannot_write_files_with_search_domains(lan: World) -> None:
    container = _container(lan)
    servers = tuple(f"192.0.2.{n}" for n in range(1, 20))
    search = ("ok.example-1.org", "a b", "x\nnameserver 192.0.2.66", "", *(f"d{n}.org" for n in range(20)))
    _leases(lan).take(container, [Lease("eth0", "192.0.2.9/24", "", servers, search)])
    assert container.endpoints[0].search == ("ok.example-1.org", "d0.org", "d1.org", "d2.org", "d3.org")
    assert len(container.endpoints[0].servers) == 8


async def test_a_lease_does_not_change_an_address_of_ours(lan: World) -> None:
    container = lan.container("web", also={"lan": EndpointSettings()})
    lan.allocator.acquire_all(container)
    before = container.endpoints[0]
    assert before.interface == "eth0"
    assert not _leases(lan).take(container, [LEASE])
    assert container.endpoints[0] is before
    assert _leases(lan).take(container, [Lease("eth1", "192.0.2.9/24", "192.0.2.1", (), ())])
    assert container.endpoints[1].ipv4 == Address("192.0.2.9", 24, "192.0.2.1")


async def test_the_servers_of_the_settings_go_before_those_of_the_lease(lan: World) -> None:
    lan.networks.get("lan").dns = ["192.0.2.7"]
    container = _container(lan)
    _leases(lan).take(container, [LEASE])
    assert container.endpoints[0].servers == ("192.0.2.7",)
