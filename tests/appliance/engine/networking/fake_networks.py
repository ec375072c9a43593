"""Networks without bridges: a host network that only records, and containers that are a record and nothing else."""

import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.endpoint_settings import EndpointIPAMConfig, EndpointSettings
from appliance.container.host_config import HostConfig, PortBindings
from appliance.container.lifecycle import Created
from appliance.engine.model.container import Container
from appliance.engine.model.events import EventBus
from appliance.engine.networking.endpoints import EndpointAllocator
from appliance.engine.networking.networks import Networks, NetworkSettings
from appliance.errors import Unavailable
from appliance.network.addresses import Network, parse_subnet
from appliance.network.firewall import Publication
from appliance.network.network_record import NetworkRecord, Pool
from appliance.store import Database


@dataclass
class RecordingHost:
    """A HostNetwork whose bridges are names in a list. `refuses` is the text of its next failure, when a bridge is added or removed."""

    bridged: bool = True
    shared_bridge: str = ""
    bridges: list[str] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    refuses: str = ""

    def _fail(self) -> None:
        if self.refuses:
            text, self.refuses = self.refuses, ""
            raise Unavailable(text)

    async def add(self, network: NetworkRecord, *, new: bool) -> None:
        self._fail()
        if network.bridge not in self.bridges:
            self.bridges.append(network.bridge)

    async def find(self, network: NetworkRecord) -> None: ...

    async def remove(self, network: NetworkRecord) -> None:
        self._fail()
        if network.bridge in self.bridges:
            self.bridges.remove(network.bridge)

    async def sweep(self, networks: Iterable[NetworkRecord]) -> None:
        known = {network.bridge for network in networks}
        self.bridges = [bridge for bridge in self.bridges if bridge in known]

    def set_rules(self, networks: Iterable[NetworkRecord], publications: Iterable[Publication]) -> None:
        self.publications = list(publications)

    def publish(self, publications: Iterable[Publication]) -> None:
        self.publications += publications

    def withdraw(self, publications: Iterable[Publication]) -> None:
        for publication in publications:
            self.publications.remove(publication)

    def routes(self) -> list[Network]:
        return [parse_subnet(text) for text in self.used]

    async def clear(self, networks: Iterable[NetworkRecord]) -> None:
        self.bridges = []


@dataclass
class World:
    """The networks of one daemon, with what is around them."""

    networks: Networks
    host: RecordingHost
    events: EventBus
    database: Database

    @property
    def allocator(self) -> EndpointAllocator:
        return self.networks.allocator

    async def network(self, name: str, subnet: str = "", **options: str) -> NetworkRecord:
        """Create a bridge network."""
        pools = [Pool(subnet)] if subnet else []
        wanted = NetworkRecord("", name, "bridge", 0, pools, own_subnet=bool(subnet), options=options)
        return await self.networks.create(wanted, unique=True)

    def container(
        self,
        name: str,
        network: str = "bridge",
        *,
        also: dict[str, EndpointSettings] | None = None,
        config: ContainerConfig | None = None,
        host_config: HostConfig | None = None,
    ) -> Container:
        """A container that has been created on a network, and on those of `also`."""
        config, host_config = config or ContainerConfig(), host_config or HostConfig()
        host_config.network_mode = network
        record = ContainerRecord(secrets.token_hex(32), name, 1, "sha256:1", "image", config, host_config)
        record.attachments = self.allocator.plan(
            config, host_config, {network: EndpointSettings(), **also} if also else {}
        )
        return Container(record, Path("nowhere"), Created())

    def release_sockets(self) -> None:
        for members in self.allocator.endpoints.values():
            for container, _ in members.values():
                bindings = list(container.record.bindings)
                self.allocator.published.unpublish(container)
                container.record.bindings = bindings

    def actions(self) -> list[tuple[str, str]]:
        """All events of networks so far: (action, the network's name)."""
        return [(event.action, event.attributes.get("name", "")) for event in self.events.past(0)]


def publishing(bindings: PortBindings) -> HostConfig:
    return HostConfig(port_bindings=bindings)


def fixed(address: str, address6: str = "") -> EndpointSettings:
    """Settings with addresses that the client chose."""
    return EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address=address, ipv6_address=address6))


@asynccontextmanager
async def networks_at(
    root: Path, host: RecordingHost | None = None, settings: NetworkSettings | None = None
) -> AsyncIterator[World]:
    """The networks of a daemon with this folder. A second block on the same folder is the daemon after a restart.

    The end of the block closes the sockets of published ports, as the end of a process does, and changes no container.
    """
    host = host or RecordingHost()
    events = EventBus()
    async with Database.open(root / "state.db") as database, trio.open_nursery() as nursery:
        settings = settings or NetworkSettings("vch0", "10.11.0.1/24")
        networks = Networks(host, database, events, nursery, settings)
        await networks.open()
        world = World(networks, host, events, database)
        yield world
        world.release_sockets()
        nursery.cancel_scope.cancel()
