"""Networks as the store keeps them, and the endpoints of containers on them."""

from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec

from appliance.container.endpoint_settings import EndpointSettings
from appliance.errors import InvalidParameter, NotFound
from appliance.hypervisor import NO_BRIDGE, Nic

# Docker's names of the options of the driver `bridge` that vchd honours.
OPTION_BRIDGE = "com.docker.network.bridge.name"
OPTION_MTU = "com.docker.network.driver.mtu"
OPTION_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
OPTION_ICC = "com.docker.network.bridge.enable_icc"
OPTION_HOST_IP = "com.docker.network.bridge.host_binding_ipv4"
OPTION_DEFAULT = "com.docker.network.bridge.default_bridge"
# The driver of a swarm's networks, and their scope.
OVERLAY, SWARM = "overlay", "swarm"
# The driver of external networks (`--container-network`): networks that other machines use too.
EXTERNAL = "external"
OPTIONS = frozenset((OPTION_BRIDGE, OPTION_MTU, OPTION_MASQUERADE, OPTION_ICC, OPTION_HOST_IP, OPTION_DEFAULT))


class Pool(msgspec.Struct):
    """One subnet, by CIDR. Containers get addresses of `ip_range`, by default of the whole subnet, but none of `aux`."""

    subnet: str
    ip_range: str = ""
    gateway: str = ""
    aux: dict[str, str] = {}


class NetworkRecord(msgspec.Struct):
    """One network. `driver` is bridge, overlay, external, host or null; `created` is in unix ns.

    `own_subnet`: the user has chosen the subnet. Only external networks have `dns` and `firewall`. An external network with
    DHCP has no pools. On vSphere the `bridge` of an external network is a portgroup.
    """

    id: str
    name: str
    driver: str
    created: int
    pools: list[Pool] = []
    internal: bool = False
    attachable: bool = False
    ipv4: bool = True
    ipv6: bool = False
    own_subnet: bool = False
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    ipam_options: dict[str, str] | None = None
    bridge: str = ""
    scope: str = "local"
    # The network on which a swarm publishes its services: a record without a bridge.
    ingress: bool = False
    dns: list[str] = []
    firewall: str = ""
    # The scope of the principal that made the network, "" for a principal that sees all objects.
    owner: str = ""
    # See container/daemon_objects.py.
    role: str = ""

    @property
    def predefined(self) -> bool:
        return self.name in ("bridge", "host", "none")

    @property
    def is_bridge(self) -> bool:
        """Whether the network is a bridge. An overlay network is one too: its swarm has only this node."""
        return self.driver in ("bridge", OVERLAY) and not self.ingress

    @property
    def is_external(self) -> bool:
        """Whether the network, its gateway and its name servers exist without vchd."""
        return self.driver == EXTERNAL

    @property
    def dhcp(self) -> bool:
        return self.is_external and not self.pools

    @property
    def used_pools(self) -> list[Pool]:
        """The pools without those that have no effect: an IPv6 subnet while IPv6 is not enabled."""
        return [pool for pool in self.pools if self.ipv6 or ":" not in pool.subnet]

    @property
    def names_are_known(self) -> bool:
        """Whether containers find each other by name. As in Docker they do not on the default network."""
        return self.is_bridge and not self.predefined

    @property
    def mtu(self) -> int:
        text = self.options.get(OPTION_MTU, "")
        return int(text) if text.isdigit() else 0

    def on(self, option: str) -> bool:
        """The value of a boolean option whose default is true."""
        return self.options.get(option, "true").lower() not in ("false", "0")


class NodeSpec(msgspec.Struct, rename="pascal"):
    """The API's NodeSpec of the only node."""

    labels: dict[str, str] = {}
    role: str = "manager"
    availability: str = "active"


class SwarmRecord(msgspec.Struct):
    """`created` and `updated` are unix ns; `version` counts updates. `spec` is the API's SwarmSpec as JSON; only the API reads it."""

    id: str
    node_id: str
    created: int
    updated: int
    version: int
    address: str
    listen: str
    spec: msgspec.Raw
    node: NodeSpec
    pools: list[str]
    subnet_bits: int


@dataclass(frozen=True, slots=True)
class Uplink:
    """For VMs on other hosts: the interface of this host that leads to them, and the bridge that has it as a port.

    All networks share the bridge, so that only their addresses tell them apart. All VMs may reach TCP port `port` of this host.
    """

    bridge: str
    interface: str
    port: int


@dataclass(frozen=True, slots=True)
class Address:
    """An IPv4 or IPv6 address on a network, the length of its prefix, and its gateway."""

    address: str
    prefix: int
    gateway: str

    @property
    def cidr(self) -> str:
        return f"{self.address}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's endpoint on a network, for its NIC, its tether and `inspect`. `dns` is the address of its name server.

    On an external network `servers` are the name servers, `search` the search domains, and `ports` the open ports, each as
    (protocol, number).
    """

    network: NetworkRecord
    id: str
    mac: str
    ipv4: Address | None
    ipv6: Address | None
    dns: str
    nic: Nic
    interface: str
    wanted: EndpointSettings = field(default_factory=EndpointSettings)
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ports: tuple[tuple[str, int], ...] = ()

    @property
    def addresses(self) -> list[Address]:
        return [address for address in (self.ipv4, self.ipv6) if address is not None]

    @property
    def gateway_rank(self) -> tuple[bool, int, str]:
        """The endpoint with the lowest rank has the default route (moby's sandbox.go: not internal, priority, name)."""
        return self.network.internal, -self.wanted.gw_priority, self.network.name


def find_network(records: Collection[NetworkRecord], ref: str) -> NetworkRecord:
    """The network that a client means: by full id, exact name, or id prefix. `default` is the bridge.

    NotFound, or InvalidParameter if several networks have the name or the prefix.
    """
    ref = "bridge" if ref == "default" else ref
    found, by = [one for one in records if one.id == ref] or [one for one in records if one.name == ref], "on name"
    if not found and ref:
        found, by = [one for one in records if one.id.startswith(ref)], "based on ID prefix"
    if len(found) > 1:
        raise InvalidParameter(f"network {ref} is ambiguous ({len(found)} matches found {by})")
    if not found:
        raise NotFound(f"network {ref} not found")
    return found[0]


def gateway_endpoint(endpoints: list[Endpoint]) -> Endpoint | None:
    """The endpoint with the container's default route, None when no endpoint can have it."""
    outward = [
        endpoint
        for endpoint in endpoints
        if not endpoint.network.internal and (endpoint.ipv4 is not None or endpoint.network.dhcp)
    ]
    return min(outward, key=lambda endpoint: endpoint.gateway_rank, default=None)


def ingress_endpoint(endpoints: list[Endpoint]) -> Endpoint | None:
    """The endpoint that published ports lead to, None when there is none. External networks have no published ports of the host."""
    return gateway_endpoint([endpoint for endpoint in endpoints if not endpoint.network.is_external])


def bridge_nic(record: NetworkRecord, mac: str) -> Nic:
    return Nic(mac, bridge=record.bridge or NO_BRIDGE, isolated=not record.on(OPTION_ICC))
