"""A swarm of one node, which overlay networks need. The hypervisor is the cluster, so there are no other nodes and no services."""

import fcntl
import ipaddress
import secrets
import socket
import string
import struct
import time
from collections.abc import Iterable

import msgspec
import trio

from appliance.engine.networking.connections import Connections
from appliance.engine.networking.networks import NO_MANAGER, Networks, OverlayPools
from appliance.errors import InvalidParameter, NotFound, NotInSwarm
from appliance.network.addresses import parse_subnet
from appliance.network.network_record import OVERLAY, SWARM, NetworkRecord, NodeSpec, SwarmRecord
from appliance.store import Database

_KIND = "swarm"
_KEY = "this"
_DIGITS = string.digits + string.ascii_lowercase
_PORT = 2377
_POOL, _SUBNET_BITS = "10.0.0.0/8", 24


class Swarm:
    """`record` is None outside a swarm. Errors carry Docker's texts."""

    def __init__(self, database: Database, networks: Networks, connections: Connections) -> None:
        self._database = database
        self._networks = networks
        self._connections = connections
        self._changing = trio.Lock()
        found = database.load(_KIND).get(_KEY)
        self.record = msgspec.json.decode(found, type=SwarmRecord) if found else None
        self._share_pools()

    def _share_pools(self) -> None:
        record = self.record
        if record is None:
            self._networks.set_overlay_pools(None)
        else:
            pools = tuple(ipaddress.IPv4Network(pool) for pool in record.pools)
            self._networks.set_overlay_pools(OverlayPools(pools, record.subnet_bits))

    def manager(self) -> SwarmRecord:
        """The swarm's record. NotInSwarm outside a swarm."""
        if self.record is None:
            raise NotInSwarm(NO_MANAGER)
        return self.record

    async def begin(
        self, advertise: str, listen: str, spec: msgspec.Raw, pools: Iterable[str], subnet_bits: int
    ) -> SwarmRecord:
        """`docker swarm init`. Empty texts and 0 stand for defaults."""
        async with self._changing:
            if self.record is not None:
                raise NotInSwarm(
                    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.'
                )
            address, port = _address(advertise or "", listen)
            bits = subnet_bits or _SUBNET_BITS
            subnets = [_pool(text, bits) for text in pools or (_POOL,)]
            now = time.time_ns()
            record = SwarmRecord(
                _identity(),
                _identity(),
                now,
                now,
                1,
                address,
                f"{address}:{port}",
                spec,
                NodeSpec(),
                subnets,
                bits,
            )
            self.record = record
            self._share_pools()
            try:
                ingress = NetworkRecord("", "ingress", OVERLAY, 0, [], scope=SWARM, ingress=True)
                await self._networks.create(ingress, unique=True)
                await self._save()
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._remove_networks()
                self.record = None
                self._share_pools()
                raise
            return record

    async def leave(self, *, force: bool) -> None:
        """`docker swarm leave`: removes the overlay networks, too. Containers on them keep running without these networks."""
        async with self._changing:
            if self.record is None:
                raise NotInSwarm("This node is not part of a swarm")
            if not force:
                raise NotInSwarm(
                    "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last manager "
                    "erases all current state of the swarm. Use `--force` to ignore this message. "
                )
            await self._remove_networks()
            await self._database.remove(_KIND, _KEY)
            self.record = None
            self._share_pools()

    async def _remove_networks(self) -> None:
        for network in [one for one in self._networks.all() if one.scope == SWARM]:
            await self._connections.disconnect_all(network)
            await self._networks.remove(network.id)

    async def update(self, version: int, spec: msgspec.Raw) -> None:
        """Replace the SwarmSpec. InvalidParameter unless `version` is the present one."""
        async with self._changing:
            record = self._current(version)
            record.spec = spec
            await self._updated(record)

    async def update_node(self, ref: str, version: int, labels: dict[str, str]) -> None:
        """Replace the labels of the node."""
        async with self._changing:
            self.check_node(ref)
            record = self._current(version)
            record.node = msgspec.structs.replace(record.node, labels=labels)
            await self._updated(record)

    def check_node(self, ref: str) -> SwarmRecord:
        """The record, if `ref` is the node's id, a prefix of it, or its name. NotInSwarm or NotFound."""
        record = self.manager()
        if not ref or not (ref in ("self", socket.gethostname()) or record.node_id.startswith(ref)):
            raise NotFound(f"node {ref} not found")
        return record

    def _current(self, version: int) -> SwarmRecord:
        record = self.manager()
        if version != record.version:
            raise InvalidParameter("rpc error: code = Unknown desc = update out of sequence")
        return record

    async def _updated(self, record: SwarmRecord) -> None:
        record.version += 1
        record.updated = time.time_ns()
        await self._save()

    async def _save(self) -> None:
        await self._database.put(_KIND, _KEY, msgspec.json.encode(self.record))


def _identity() -> str:
    """A random id in the format of swarmkit: 25 digits of base 36."""
    return "".join(secrets.choice(_DIGITS) for _ in range(25))


def _address(advertise: str, listen: str) -> tuple[str, int]:
    """The node's (address, port), from an address or an interface's name, with or without port. InvalidParameter with Docker's text."""
    text, _, port = advertise.rpartition(":") if advertise.count(":") == 1 else (advertise, "", "")
    _, _, listening = listen.rpartition(":")
    number = port or listening or str(_PORT)
    if not number.isdecimal() or not 0 < int(number) < 1 << 16:
        raise InvalidParameter(f"invalid port in {advertise or listen!r}")
    if not text:
        found = _own_address()
        if not found:
            raise InvalidParameter("could not find the system's IP address - specify one with --advertise-addr")
        return found, int(number)
    try:
        return str(ipaddress.ip_address(text.strip("[]"))), int(number)
    except ValueError:
        pass
    found = _address_of(text)
    if not found:
        raise InvalidParameter(
            "advertise address must be a non-zero IP address or network interface (with optional port number)"
        )
    return found, int(number)


def _own_address() -> str:
    """The address of the interface with the default route, "" without one. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _address_of(interface: str) -> str:
    """The first IPv4 address of an interface; "" when there is no such interface or address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # SIOCGIFADDR (netdevice(7)).
            answer = fcntl.ioctl(probe, 0x8915, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return ""
        return socket.inet_ntoa(answer[20:24])


def _pool(text: str, bits: int) -> str:
    network = parse_subnet(text)
    if network.version != 4 or not network.prefixlen <= bits <= 29:
        raise InvalidParameter(f"invalid default address pool {text} of /{bits} subnets")
    return str(network)
