"""The networks: create, find, remove; which containers are on them, at which addresses, under which names."""

import ipaddress
import logging
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import trio

from appliance.container.event import Event
from appliance.container.record import Attachment
from appliance.engine.events import EventBus
from appliance.engine.record import Container
from appliance.engine.resolving import Resolver
from appliance.errors import Conflict, Forbidden, InvalidParameter, NotFound, Unsupported, VchError
from appliance.hypervisor import NO_BRIDGE, Card
from appliance.network.addresses import Network, Subnet, mac_of, parse_subnet, pick_local_subnet6, pick_subnet
from appliance.network.host import Host
from appliance.network.names import NameServer
from appliance.network.ports import Ports, Wanted, forwards, parse_bindings, parse_port
from appliance.network.record import (
    OPTION_BRIDGE,
    OPTION_HOST_IP,
    OPTIONS,
    Address,
    Endpoint,
    NetworkRecord,
    Pool,
    bridge_card,
    way_out,
)
from appliance.store import Database

log = logging.getLogger(__name__)

_KIND = "network"
_MIN_ADDRESSES = 4


class Networks:
    """`nursery` owns the name servers. All methods raise errors of `errors.py` with Docker's texts."""

    def __init__(
        self, host: Host, database: Database, events: EventBus, nursery: trio.Nursery, bip: str, bridge: str,
        dns: tuple[str, ...],
    ) -> None:  # fmt: skip
        self._host = host
        self._database = database
        self._events = events
        self._nursery = nursery
        self._bip = bip
        self._bridge = bridge
        self.ports = Ports(host, nursery)
        self._records: dict[str, NetworkRecord] = {}
        self._subnets: dict[str, list[Subnet]] = {}
        self._members: dict[str, dict[str, tuple[Container, Endpoint]]] = {}
        self._servers: dict[str, trio.CancelScope] = {}
        self._resolver = Resolver(self._members, dns)
        # One network is made or removed at a time: their subnets must not overlap.
        self._changing = trio.Lock()

    @property
    def bridged(self) -> bool:
        """Whether containers reach each other: not with user-mode networking."""
        return self._host.bridged

    # -- begin and end --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Find the networks of before, make those that every host has."""
        found = [msgspec.json.decode(value, type=NetworkRecord) for value in self._database.load(_KIND).values()]
        self._records = {record.id: record for record in sorted(found, key=lambda record: record.created)}
        for name, driver in (("bridge", "bridge"), ("host", "host"), ("none", "null")):
            await self._make_predefined(name, driver)
        await self._host.sweep(self._records.values())
        for record in self._records.values():
            await self._set_up(record, new=False)

    async def _make_predefined(self, name: str, driver: str) -> None:
        known = next((record for record in self._records.values() if record.name == name), None)
        record = known or NetworkRecord(secrets.token_hex(32), name, driver, time.time_ns())
        if driver == "bridge":
            try:
                interface = ipaddress.ip_interface(self._bip)
            except ValueError as error:
                raise InvalidParameter(f"invalid --bip {self._bip}: {error}") from error
            if interface.version != 4 or interface.network.prefixlen > 28:
                raise InvalidParameter(f"invalid --bip {self._bip}: an IPv4 network of at least 16 addresses")
            record.pools = [Pool(str(interface.network), gateway=str(interface.ip))]
            record.bridge = self._bridge
        self._records[record.id] = record
        await self._database.put(_KIND, record.id, msgspec.json.encode(record))

    async def _set_up(self, record: NetworkRecord, *, new: bool) -> None:
        """Make all of a network that is not its record."""
        self._members[record.id] = {}
        if record.driver != "bridge":
            return
        self._subnets[record.id] = [
            Subnet(pool, f"{record.name} ({record.id})", self._reserved(pool)) for pool in record.used_pools
        ]
        await self._host.add(record, new=new)
        if self._host.bridged:
            gateway = next((pool.gateway for pool in record.pools if ":" not in pool.gateway), "")
            if gateway:
                await self._nursery.start(self._serve_names, record, gateway)

    def _reserved(self, pool: Pool) -> list[str]:
        """User-mode networking answers DNS on an address of its own: the last one."""
        return [] if self._host.bridged else [str(parse_subnet(pool.subnet)[-2])]

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
        """Every container that runs is known: let the rules be true."""
        self._host.set_rules(self._records.values(), self.ports.led())

    async def close(self) -> None:
        """Leave nothing on the host, unless somebody still needs it."""
        if not any(self._members.values()):
            await self._host.clear([record for record in self._records.values() if record.bridge])

    # -- finding --------------------------------------------------------------------------------------------------

    def all(self) -> list[NetworkRecord]:
        return list(self._records.values())

    def get(self, ref: str) -> NetworkRecord:
        """By full id, exact name, unique id prefix."""
        if ref == "default":
            ref = "bridge"
        if ref in self._records:
            return self._records[ref]
        found = [record for record in self._records.values() if record.name == ref]
        found = found or [record for key, record in self._records.items() if ref and key.startswith(ref)]
        if len(found) > 1:
            raise InvalidParameter(f"network {ref} is ambiguous ({len(found)} matches found based on ID prefix)")
        if not found:
            raise NotFound(f"network {ref} not found")
        return found[0]

    def members(self, record: NetworkRecord) -> list[tuple[Container, Endpoint]]:
        """Who is on it now."""
        return list(self._members[record.id].values())

    @property
    def blank(self) -> Endpoint:
        """A place on the default network that is nobody's, for machines that meet nobody."""
        record = self.get("bridge")
        address = self._subnets[record.id][0].blank
        mac = mac_of(address.address)
        card = Card(mac, bridge=NO_BRIDGE) if self._host.bridged else self._card(record, mac)
        return Endpoint(record, "", mac, address, None, self._dns(record, address), card, "eth0")

    # -- create and remove ----------------------------------------------------------------------------------------

    async def create(self, wanted: NetworkRecord) -> NetworkRecord:
        """Make a network: `wanted` with what it leaves open, like its subnet."""
        record = wanted
        if not self._host.bridged:
            raise Unsupported(
                "networks need bridges, which need the rights of root: this vchd runs with user-mode networking"
            )
        if record.driver != "bridge":
            raise NotFound(f"could not find plugin {record.driver} in v1 plugin registry: plugin not found")
        self._check_options(record)
        async with self._changing:
            if any(record.name == other.name for other in self._records.values()):
                raise Conflict(f"network with name {record.name} already exists")
            record.id = secrets.token_hex(32)
            record.created = time.time_ns()
            record.bridge = record.options.get(OPTION_BRIDGE) or f"br-{record.id[:12]}"
            if any(record.bridge == other.bridge for other in self._records.values()):
                raise Forbidden(f"bridge name {record.bridge} is used by another network")
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
        self._emit("create", record)
        return record

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
        for index, pool in enumerate(record.pools):
            subnet = parse_subnet(pool.subnet)
            if subnet.num_addresses < _MIN_ADDRESSES:
                raise InvalidParameter(f"invalid subnet {subnet}: too few addresses")
            others = [*ours, *(parse_subnet(other.subnet) for other in record.pools[:index])]
            if any(subnet.version == other.version and subnet.overlaps(other) for other in others):
                raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
            pool.subnet = str(subnet)
        if not any(":" not in pool.subnet for pool in record.pools):
            taken: list[Network] = [*ours, *await trio.to_thread.run_sync(self._host.routes)]
            record.pools.insert(0, Pool(str(pick_subnet(taken))))
        if record.ipv6 and not any(":" in pool.subnet for pool in record.pools):
            record.pools.append(Pool(str(pick_local_subnet6(record.id))))
        for pool in record.pools:
            pool.gateway = Subnet(pool, record.name).gateway

    async def remove(self, ref: str) -> None:
        async with self._changing:
            record = self.get(ref)
            if record.predefined:
                raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
            if self._members[record.id]:
                raise Forbidden(
                    f"error while removing network: network {record.name} id {record.id} has active endpoints"
                )
            # The record goes last: whoever is killed before that does it again.
            del self._records[record.id]
            try:
                await self._tear_down(record)
                await self._database.remove(_KIND, record.id)
            except BaseException:
                self._records[record.id] = record
                self._members.setdefault(record.id, {})
                raise
        self._emit("destroy", record)

    async def _tear_down(self, record: NetworkRecord) -> None:
        self._records.pop(record.id, None)
        if scope := self._servers.pop(record.id, None):
            scope.cancel()
        self._members.pop(record.id, None)
        self._subnets.pop(record.id, None)
        if record.driver == "bridge":
            self.settle()
            await self._host.remove(record)

    def pruned(self) -> None:
        """`docker network prune` is through."""
        self._events.publish(Event("network", "prune", "", {"reclaimed": "0"}))

    def _emit(self, action: str, record: NetworkRecord, **more: str) -> None:
        self._events.publish(Event("network", action, record.id, {"name": record.name, "type": record.driver, **more}))

    def tell(self, action: str, container: Container, endpoint: Endpoint) -> None:
        """An event: `connect` or `disconnect`."""
        self._emit(action, endpoint.network, container=container.id)

    # -- places of containers -------------------------------------------------------------------------------------

    def plan(self, config: dict[str, Any], host: dict[str, Any], wanted: dict[str, Any]) -> list[Attachment]:
        """On which networks a container is to be; `wanted` are EndpointSettings by a network's name or id.

        A network that is not there is found out when the container starts, as in Docker.
        """
        mode = host.get("NetworkMode") or "default"
        if config.get("NetworkDisabled"):
            mode = "none"
        if mode.startswith("container:"):
            raise InvalidParameter(
                f"NetworkMode {mode} is not supported: another container is another machine, with a network of its own"
            )
        settings = {self._name_of(ref): dict(given or {}) for ref, given in wanted.items()}
        primary = self._name_of(mode)
        names = [primary, *(name for name in settings if name != primary)]
        if len(names) > 1 and primary in ("none", "host"):
            raise InvalidParameter(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
            )
        attachments = [Attachment(name, settings.get(name, {})) for name in names]
        first = attachments[0].wanted
        if config.get("MacAddress"):
            first.setdefault("MacAddress", config["MacAddress"])
        if host.get("Links") and primary not in ("bridge", "none", "host"):
            first["Links"] = [*(first.get("Links") or ()), *host["Links"]]
        for attachment in attachments:
            self.check(attachment)
        return attachments

    def _name_of(self, ref: str) -> str:
        try:
            return self.get(ref).name
        except NotFound:
            return ref

    def check(self, attachment: Attachment) -> None:
        """InvalidParameter when what is wanted cannot be, on the network as it is."""
        try:
            record = self.get(attachment.network)
        except NotFound:
            return
        wanted = attachment.wanted
        before = "invalid endpoint settings:\n"
        if wanted.get("Aliases") and not record.names_are_known:
            raise InvalidParameter(f"{before}network-scoped aliases are only supported for user-defined networks")
        ipam = wanted.get("IPAMConfig") or {}
        for key, version in (("IPv4Address", 4), ("IPv6Address", 6)):
            text = ipam.get(key)
            if not text:
                continue
            try:
                address = ipaddress.ip_address(text)
            except ValueError as error:
                raise InvalidParameter(f"{before}invalid {key.removesuffix('Address')} address: {text}") from error
            if not record.own_subnet:
                raise InvalidParameter(
                    f"{before}user specified IP address is supported only when connecting to networks with user configured subnets"
                )
            if address.version != version or not any(address in parse_subnet(pool.subnet) for pool in record.pools):
                raise InvalidParameter(f"{before}no configured subnet contains IP address {text}")

    def _subnet(self, record: NetworkRecord, version: int, address: str = "") -> Subnet | None:
        for subnet in self._subnets.get(record.id, ()):
            if subnet.network.version == version and (not address or address in subnet):
                return subnet
        return None

    def join(self, container: Container) -> None:
        """Take the container's places on all its networks, and its ports: all of it or nothing."""
        assert not container.endpoints
        try:
            for attachment in container.record.attachments:
                self.enter(container, attachment)
            self.publish(container)
        except BaseException:
            self.leave(container)
            raise

    def enter(self, container: Container, attachment: Attachment, *, again: bool = False) -> Endpoint:
        """Take one place; `again`: the one that it has had when this daemon was not there."""
        record = self.get(attachment.network)
        wanted = attachment.wanted
        ipam = wanted.get("IPAMConfig") or {}
        # What is called the host's network is a place on the default one with the ports published.
        carrier = self.get("bridge") if record.driver == "host" else record
        found: list[Address | None] = [None, None]
        try:
            for index, (version, key, have) in enumerate(
                ((4, "IPv4Address", attachment.address), (6, "IPv6Address", attachment.address6))
            ):
                subnet = self._subnet(carrier, version, have if again else ipam.get(key) or "")
                if subnet is None:
                    if ipam.get(key) and (version == 4 or record.ipv6):
                        raise InvalidParameter(f"no configured subnet contains IP address {ipam[key]}")
                elif not again:
                    found[index] = subnet.take(ipam.get(key) or "")
                elif have:
                    found[index] = subnet.retake(have)
        except BaseException:
            self._give_back(carrier, found)
            raise
        ipv4, ipv6 = found
        if not again:
            attachment.endpoint = secrets.token_hex(32)
            attachment.mac = str(wanted.get("MacAddress") or "").lower() or (
                mac_of(ipv4.address) if ipv4 is not None else f"02:42:{secrets.token_bytes(4).hex(':')}"
            )
            attachment.address = ipv4.address if ipv4 is not None else ""
            attachment.address6 = ipv6.address if ipv6 is not None else ""
            attachment.interface = self._free_interface(container) if record.driver != "null" else ""
        endpoint = Endpoint(
            record, attachment.endpoint, attachment.mac if attachment.interface else "", ipv4, ipv6,
            self._dns(carrier, ipv4), self._card(carrier, attachment.mac), attachment.interface, wanted,
        )  # fmt: skip
        container.endpoints.append(endpoint)
        self._members[record.id][container.id] = (container, endpoint)
        return endpoint

    @staticmethod
    def _free_interface(container: Container) -> str:
        used = {endpoint.interface for endpoint in container.endpoints}
        return next(f"eth{number}" for number in range(len(used) + 1) if f"eth{number}" not in used)

    def _dns(self, carrier: NetworkRecord, ipv4: Address | None) -> str:
        if ipv4 is None:
            return ""
        return ipv4.gateway if self._host.bridged else str(parse_subnet(carrier.pools[0].subnet)[-2])

    def _card(self, carrier: NetworkRecord, mac: str) -> Card:
        if self._host.bridged:
            return bridge_card(carrier, mac)
        if not carrier.pools:
            return Card(mac)
        pool = carrier.pools[0]
        return Card(mac, pool.subnet, pool.gateway, str(parse_subnet(pool.subnet)[-2]))

    def _give_back(self, carrier: NetworkRecord, addresses: Iterable[Address | None]) -> None:
        for address in addresses:
            if address is not None:
                subnet = self._subnet(carrier, 6 if ":" in address.address else 4, address.address)
                if subnet is not None:
                    subnet.release(address.address)

    def exit(self, container: Container, endpoint: Endpoint) -> None:
        """Give one place back."""
        container.endpoints.remove(endpoint)
        record = endpoint.network
        self._members.get(record.id, {}).pop(container.id, None)
        self._give_back(self.get("bridge") if record.driver == "host" else record, endpoint.addresses)
        for attachment in container.record.attachments:
            if attachment.network == record.name:
                attachment.endpoint = attachment.address = attachment.address6 = attachment.mac = (
                    attachment.interface
                ) = ""

    def leave(self, container: Container) -> list[Endpoint]:
        """Give back all places and ports; those that there were."""
        self.ports.release(container.id)
        container.record.bindings = []
        left = list(container.endpoints)
        for endpoint in left:
            self.exit(container, endpoint)
        return left

    @staticmethod
    def forget(container: Container) -> None:
        """What a machine has had that is not there any more."""
        container.record.bindings = []
        for attachment in container.record.attachments:
            attachment.endpoint = attachment.address = attachment.address6 = attachment.mac = attachment.interface = ""

    def rejoin(self, container: Container) -> None:
        """The places of a container that was found running."""
        for attachment in container.record.attachments:
            try:
                self.enter(container, attachment, again=True)
            except VchError as error:
                log.warning("container %s is not on network %s: %s", container.id[:12], attachment.network, error)
        self.ports.retake(container.id, container.record.bindings)
        self._lead(container)

    # -- ports ----------------------------------------------------------------------------------------------------

    def publish(self, container: Container) -> None:
        """Take the host's ports that the container wants, and lead them to where it can be reached."""
        target = way_out(container.endpoints)
        wanted = list(_wanted_ports(container)) if target is not None and target.interface else []
        if not wanted:
            return
        assert target is not None
        label = f"{container.record.name} ({target.id})"
        container.record.bindings = self.ports.take(
            container.id, label, wanted, target.network.options.get(OPTION_HOST_IP, "")
        )
        self._lead(container)

    def _lead(self, container: Container) -> None:
        target = way_out(container.endpoints)
        bindings = container.record.bindings
        if target is None or target.ipv4 is None or not bindings:
            return
        if self._host.bridged:
            address6 = target.ipv6.address if target.ipv6 is not None else ""
            self.ports.lead(container.id, bindings, target.ipv4.address, address6)
            return
        # The hypervisor listens itself.
        self.ports.hand_over(container.id)
        led = replace(target, card=replace(target.card, forwards=forwards(bindings, target.ipv4.address)))
        container.endpoints[container.endpoints.index(target)] = led
        self._members[target.network.id][container.id] = (container, led)

    def withdraw(self, container: Container) -> None:
        """Give the ports back, keep the places."""
        self.ports.release(container.id)
        container.record.bindings = []


def _wanted_ports(container: Container) -> Iterator[Wanted]:
    record = container.record
    bindings = record.host.get("PortBindings") or {}
    exposed = record.config.get("ExposedPorts") or {}
    yield from parse_bindings(bindings)
    for text in sorted(exposed, key=lambda text: (text.partition("/")[2], text)):
        port, protocol = parse_port(text)
        if protocol == "sctp" or f"{port}/{protocol}" in bindings:
            continue
        if record.host.get("NetworkMode") == "host":
            yield Wanted(protocol, port, "", port, port)
        elif record.host.get("PublishAllPorts"):
            yield Wanted(protocol, port, "", 0, 0)
