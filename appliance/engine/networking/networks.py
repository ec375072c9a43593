"""Networks: create, find, remove; their bridges, firewall rules and DNS servers on the host."""

import ipaddress
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import trio

from appliance.config import ContainerNetwork
from appliance.container.daemon_objects import check_not_reserved
from appliance.container.event import Event
from appliance.container.prune_guard import PruneGuard
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.model.container import Container
from appliance.engine.model.events import EventBus
from appliance.engine.networking.endpoints import EndpointAllocator
from appliance.engine.networking.resolver import Resolver
from appliance.errors import Conflict, Forbidden, InvalidParameter, NotFound, NotInSwarm, Unsupported
from appliance.network.addresses import Network, Subnet, default_pools, parse_subnet, pick_local_subnet6, pick_subnet
from appliance.network.dns_server import NameServer
from appliance.network.host import HostNetwork
from appliance.network.network_record import (
    EXTERNAL,
    OPTION_BRIDGE,
    OPTION_HOST_IP,
    OPTION_ICC,
    OPTION_MTU,
    OPTIONS,
    OVERLAY,
    SWARM,
    Endpoint,
    NetworkRecord,
    Pool,
    find_network,
)
from appliance.store import Database

log = logging.getLogger(__name__)

_KIND = "network"
_MIN_ADDRESSES = 4
# Options that need a bridge of the network's own.
_OWN_BRIDGE = (OPTION_BRIDGE, OPTION_ICC, OPTION_MTU)


NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and '
    "try again."
)


@dataclass(frozen=True, slots=True)
class OverlayPools:
    """Address ranges, and the prefix length of the subnets that overlay networks get from them."""

    pools: tuple[ipaddress.IPv4Network, ...]
    bits: int

    def subnets(self) -> Iterator[ipaddress.IPv4Network]:
        """All subnets, in order."""
        for pool in self.pools:
            yield from pool.subnets(new_prefix=self.bits)


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """The daemon's settings for networks: the default bridge's name and address ("" for any), DNS servers, external networks."""

    bridge: str
    bip: str = ""
    dns: tuple[str, ...] = ()
    external: tuple[ContainerNetwork, ...] = ()


class Networks:
    """`nursery` owns the DNS servers. Errors carry Docker's texts."""

    def __init__(
        self,
        host: HostNetwork,
        database: Database,
        events: EventBus,
        nursery: trio.Nursery,
        settings: NetworkSettings,
    ) -> None:
        self._host = host
        self._database = database
        self._events = events
        self._tasks = IsolatedTasks(nursery)
        self._bip = settings.bip
        self._bridge = settings.bridge
        self._external = settings.external
        self.allocator = EndpointAllocator(host, nursery, self.get)
        self._records: dict[str, NetworkRecord] = {}
        self._servers: dict[str, trio.CancelScope] = {}
        self._resolver = Resolver(self.allocator.endpoints, settings.dns)
        self._overlay_pools: OverlayPools | None = None
        # Networks are made and removed one at a time, so that their subnets do not overlap.
        self._changing = trio.Lock()
        # A prune of containers takes it, too.
        self.pruning = PruneGuard()

    @property
    def bridged(self) -> bool:
        """Whether containers reach each other. They do not with user-mode networking."""
        return self._host.bridged

    def set_overlay_pools(self, pools: OverlayPools | None) -> None:
        """The address pools of overlay networks; None while this daemon is not in a swarm."""
        self._overlay_pools = pools

    # -- begin and end --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load the stored networks, and make the predefined and external ones."""
        found = [msgspec.json.decode(value, type=NetworkRecord) for value in self._database.load(_KIND).values()]
        self._records = {record.id: record for record in sorted(found, key=lambda record: record.created)}
        for name, driver in (("bridge", "bridge"), ("host", "host"), ("none", "null")):
            await self._make_predefined(name, driver)
        await self._make_external()
        await self._host.sweep(self._records.values())
        for record in self._records.values():
            await self._set_up(record, new=False)

    async def _make_predefined(self, name: str, driver: str) -> None:
        known = next((record for record in self._records.values() if record.name == name), None)
        record = known or NetworkRecord(secrets.token_hex(32), name, driver, time.time_ns())
        if driver == "bridge":
            record.bridge = self._bridge
            if self._bip or not record.pools:
                record.pools = [await self._default_pool()]
        self._records[record.id] = record
        await self._database.put(_KIND, record.id, msgspec.json.encode(record))

    async def _make_external(self) -> None:
        """Make, update or forget external networks, so that there are exactly those of the settings."""
        if self._external and not self._host.bridged:
            raise InvalidParameter("--container-network needs bridges: this vchd runs with user-mode networking")
        names = [one.name for one in self._external]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InvalidParameter(f"--container-network: the name {twice} is used twice")
        before = {record.name: record for record in self._records.values() if record.is_external}
        for name in before.keys() - set(names):
            del self._records[before[name].id]
            await self._database.remove(_KIND, before[name].id)
        for one in self._external:
            record = before.get(one.name) or NetworkRecord(secrets.token_hex(32), one.name, EXTERNAL, time.time_ns())
            if any(other.name == one.name and other is not record for other in self._records.values()):
                raise InvalidParameter(f"--container-network {one.name}: there is another network of that name")
            if one.place == self._bridge:
                raise InvalidParameter(f"--container-network {one.name}: {one.place} is the default network's bridge")
            record.bridge, record.firewall, record.dns = one.place, one.firewall, list(one.dns)
            record.pools = [Pool(one.subnet, one.range, one.gateway)] if one.subnet else []
            record.own_subnet = bool(record.pools)
            # Without a gateway the network has no route to other networks.
            record.internal = bool(record.pools) and not one.gateway
            await self._host.find(record)
            self._records[record.id] = record
            await self._database.put(_KIND, record.id, msgspec.json.encode(record))

    async def _default_pool(self) -> Pool:
        """The default network's addresses: those of --bip, or the first subnet that this host does not use."""
        if not self._bip:
            taken = await trio.to_thread.run_sync(self._host.routes)
            subnet = pick_subnet(default_pools(), taken)
            return Pool(str(subnet), gateway=str(subnet[1]))
        try:
            interface = ipaddress.ip_interface(self._bip)
        except ValueError as error:
            raise InvalidParameter(f"invalid --bip {self._bip}: {error}") from error
        if interface.version != 4 or interface.network.prefixlen > 28:
            raise InvalidParameter(f"invalid --bip {self._bip}: an IPv4 network of at least 16 addresses")
        return Pool(str(interface.network), gateway=str(interface.ip))

    async def _set_up(self, record: NetworkRecord, *, new: bool) -> None:
        """Make the network's bridge and rules on the host, and start its DNS server."""
        self.allocator.open(record)
        if not record.is_bridge:
            return
        await self._host.add(record, new=new)
        if self._host.bridged:
            gateway = next((pool.gateway for pool in record.pools if ":" not in pool.gateway), "")
            if gateway:
                await self._tasks.start(self._serve_names, record, gateway)

    async def _serve_names(
        self, record: NetworkRecord, gateway: str, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED
    ) -> None:
        server = NameServer(record.id, self._resolver.resolve, self._resolver.reverse)
        try:
            with trio.CancelScope() as scope:
                self._servers[record.id] = scope
                async with server.listen(gateway, record.bridge):
                    task_status.started()
                    await trio.sleep_forever()
        except* OSError as group:
            log.warning("network %s has no name server: %s", record.name, group.exceptions[0])
            task_status.started()

    def settle(self) -> None:
        """Write the firewall rules for all networks and published ports."""
        self._host.set_rules(self._records.values(), self.allocator.published.all())

    async def close(self) -> None:
        """Remove bridges and rules from the host, unless running containers need them."""
        if not any(self.allocator.endpoints.values()):
            await self._host.clear([record for record in self._records.values() if record.bridge])

    # -- finding --------------------------------------------------------------------------------------------------

    def all(self) -> list[NetworkRecord]:
        return list(self._records.values())

    def get(self, ref: str) -> NetworkRecord:
        """See find_network."""
        return self._records.get(ref) or find_network(self._records.values(), ref)

    def members(self, record: NetworkRecord) -> list[tuple[Container, Endpoint]]:
        """The containers on the network now, with their endpoints."""
        return self.allocator.members(record)

    # -- create and remove ----------------------------------------------------------------------------------------

    async def create(self, wanted: NetworkRecord, *, unique: bool) -> NetworkRecord:
        """Make a network from `wanted`, and fill in what is open, such as the subnet. `unique`: its name must be free."""
        record = wanted
        if not self._host.bridged:
            raise Unsupported(
                "networks need bridges, and bridges need the rights of root: this vchd runs with user-mode networking"
            )
        self._check_driver(record)
        self._check_options(record)
        if not record.role:
            check_not_reserved(record.labels)
        for option in _OWN_BRIDGE if self._host.shared_bridge else ():
            if option in record.options:
                raise InvalidParameter(f"network option {option} is not supported: all networks share one bridge here")
        async with self._changing:
            same = [other for other in self._records.values() if record.name == other.name]
            if any(unique or other.predefined or other.is_external for other in same):
                raise Conflict(f"network with name {record.name} already exists")
            record.id = secrets.token_hex(32)
            record.created = time.time_ns()
            shared = self._host.shared_bridge
            record.bridge = shared or record.options.get(OPTION_BRIDGE) or f"br-{record.id[:12]}"
            if not shared and any(record.bridge == other.bridge for other in self._records.values()):
                raise Forbidden(f"bridge name {record.bridge} is used by another network")
            if record.ingress and (other := next((one for one in self._records.values() if one.ingress), None)):
                raise Conflict(
                    f"rpc error: code = AlreadyExists desc = ingress network ({other.id}) is already present"
                )
            await self._choose_subnets(record)
            try:
                await self._set_up(record, new=True)
                self._records[record.id] = record
                self.settle()
                await self._database.put(_KIND, record.id, msgspec.json.encode(record))
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._tear_down(record)
                raise
        self._emit("create", record, record.owner)
        return record

    def _check_driver(self, record: NetworkRecord) -> None:
        if record.driver == OVERLAY:
            if self._overlay_pools is None:
                raise NotInSwarm(NO_MANAGER)
            if record.scope != SWARM:
                raise Forbidden("cannot downgrade network scope for overlay networks")
        elif record.driver == EXTERNAL:
            raise Forbidden("external networks come from the settings of vchd: --container-network")
        elif record.driver != "bridge":
            raise NotFound(f"could not find plugin {record.driver} in v1 plugin registry: plugin not found")
        elif record.ingress:
            raise InvalidParameter("an ingress network needs the driver overlay")

    @staticmethod
    def _check_options(record: NetworkRecord) -> None:
        for option, value in record.options.items():
            if option not in OPTIONS:
                raise InvalidParameter(f"network option {option} is not supported")
            if option == OPTION_BRIDGE and not 0 < len(value) < 16:
                raise InvalidParameter(f"invalid bridge name {value}: 1 to 15 characters")
            if option == OPTION_HOST_IP:
                try:
                    ipaddress.IPv4Address(value)
                except ValueError as error:
                    raise InvalidParameter(f"invalid value for {option}: {value}") from error

    async def _choose_subnets(self, record: NetworkRecord) -> None:
        ours = [parse_subnet(pool.subnet) for other in self._records.values() for pool in other.pools]
        # A bridge takes its subnet away from the host. Only a client with full access may do that to a subnet that the host uses.
        used = await trio.to_thread.run_sync(self._host.routes) if record.owner and record.pools else []
        for index, pool in enumerate(record.pools):
            subnet = parse_subnet(pool.subnet)
            if subnet.num_addresses < _MIN_ADDRESSES:
                raise InvalidParameter(f"invalid subnet {subnet}: too few addresses")
            others = [*ours, *used, *(parse_subnet(other.subnet) for other in record.pools[:index])]
            if any(subnet.version == other.version and subnet.overlaps(other) for other in others):
                raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
            pool.subnet = str(subnet)
        if not any(":" not in pool.subnet for pool in record.pools):
            taken: list[Network] = [*ours, *await trio.to_thread.run_sync(self._host.routes)]
            pools = (
                default_pools()
                if record.scope != SWARM or self._overlay_pools is None
                else self._overlay_pools.subnets()
            )
            record.pools.insert(0, Pool(str(pick_subnet(pools, taken))))
        if record.ipv6 and not any(":" in pool.subnet for pool in record.pools):
            record.pools.append(Pool(str(pick_local_subnet6(record.id))))
        for pool in record.pools:
            pool.gateway = Subnet(pool, record.name).gateway

    async def remove(self, ref: str) -> None:
        async with self._changing:
            record = self.get(ref)
            if record.predefined or record.is_external:
                raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
            if self.allocator.endpoints[record.id]:
                raise Forbidden(
                    f"error while removing network: network {record.name} id {record.id} has active endpoints"
                )
            # The record is removed last: a daemon that is killed before repeats the removal.
            del self._records[record.id]
            try:
                await self._tear_down(record)
                await self._database.remove(_KIND, record.id)
            except BaseException:
                self._records[record.id] = record
                self.allocator.endpoints.setdefault(record.id, {})
                raise
        self._emit("destroy", record, record.owner)

    async def _tear_down(self, record: NetworkRecord) -> None:
        self._records.pop(record.id, None)
        if scope := self._servers.pop(record.id, None):
            scope.cancel()
        self.allocator.close(record)
        if record.is_bridge:
            self.settle()
            await self._host.remove(record)

    async def prune(self, wanted: Callable[[NetworkRecord], bool]) -> list[str]:
        """Remove the unused networks for which `wanted` is true. Returns their names. Conflict while another prune runs."""
        with self.pruning.running():
            removed = []
            for record in self.all():
                if (
                    record.predefined
                    or record.role
                    or record.is_external
                    or record.ingress
                    or self.members(record)
                    or not wanted(record)
                ):
                    continue
                try:
                    await self.remove(record.id)
                except (Forbidden, NotFound):
                    continue  # a container has joined, or another client has removed it
                removed.append(record.name)
            self._events.publish(Event("network", "prune", "", {"reclaimed": "0"}))
            return removed

    def _emit(self, action: str, record: NetworkRecord, owner: str, **more: str) -> None:
        if record.role:
            return
        attributes = {"name": record.name, "type": record.driver, **more}
        self._events.publish(Event("network", action, record.id, attributes, owner=owner))

    def emit(self, action: str, container: Container, endpoint: Endpoint) -> None:
        """Publish the event `connect` or `disconnect`, which belongs to the owner of the container."""
        if container.record.role:
            return
        self._emit(action, endpoint.network, container.record.owner, container=container.id)
