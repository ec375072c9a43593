"""What is kept of a network on disk, and a container's place on one while it runs."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from appliance.hypervisor import NO_BRIDGE, Nic

# Options of the driver `bridge` that are honoured; Docker's names.
OPTION_BRIDGE = "com.docker.network.bridge.name"
OPTION_MTU = "com.docker.network.driver.mtu"
OPTION_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
OPTION_ICC = "com.docker.network.bridge.enable_icc"
OPTION_HOST_IP = "com.docker.network.bridge.host_binding_ipv4"
OPTION_DEFAULT = "com.docker.network.bridge.default_bridge"
# The driver of a swarm's networks, and their scope.
OVERLAY, SWARM = "overlay", "swarm"
# The driver of networks that others are on, too.
EXTERNAL = "external"
OPTIONS = frozenset((OPTION_BRIDGE, OPTION_MTU, OPTION_MASQUERADE, OPTION_ICC, OPTION_HOST_IP, OPTION_DEFAULT))


class Pool(msgspec.Struct):
    """One subnet, by CIDR; `ip_range` is the part of it that addresses are handed out from, `aux` what others have."""

    subnet: str
    ip_range: str = ""
    gateway: str = ""
    aux: dict[str, str] = {}


class NetworkRecord(msgspec.Struct):
    """One network. `driver` is bridge, overlay, external, host or null; `created` unix ns; `own_subnet`: its user has chosen the subnet.

    An external one has no pools where addresses are DHCP's; `bridge` is the portgroup then. `dns` and `firewall` are its alone.
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
    # A swarm's, for what its services publish: on paper only.
    ingress: bool = False
    dns: list[str] = []
    firewall: str = ""

    @property
    def predefined(self) -> bool:
        return self.name in ("bridge", "host", "none")

    @property
    def is_bridge(self) -> bool:
        """Whether it is a bridge of this host: a swarm has no other node that an overlay would have to reach."""
        return self.driver in ("bridge", OVERLAY) and not self.ingress

    @property
    def is_external(self) -> bool:
        """Whether it is there without us, and so are its gateway and its names."""
        return self.driver == EXTERNAL

    @property
    def dhcp(self) -> bool:
        return self.is_external and not self.pools

    @property
    def used_pools(self) -> list[Pool]:
        """Without IPv6, a subnet of it is on paper only."""
        return [pool for pool in self.pools if self.ipv6 or ":" not in pool.subnet]

    @property
    def names_are_known(self) -> bool:
        """Whether containers find each other by name: not on the default network, as ever."""
        return self.is_bridge and not self.predefined

    @property
    def mtu(self) -> int:
        text = self.options.get(OPTION_MTU, "")
        return int(text) if text.isdigit() else 0

    def on(self, option: str) -> bool:
        """A switch that is on unless it was turned off."""
        return self.options.get(option, "true").lower() not in ("false", "0")


class SwarmRecord(msgspec.Struct):
    """`created` and `updated` unix ns; `version` counts updates; `spec` is the API's SwarmSpec, `node` its NodeSpec."""

    id: str
    node_id: str
    created: int
    updated: int
    version: int
    address: str
    listen: str
    spec: dict[str, Any]
    node: dict[str, Any]
    pools: list[str]
    subnet_bits: int


@dataclass(frozen=True, slots=True)
class Uplink:
    """Where machines are on other hosts: the interface of this one that leads to them, and the bridge that it is put in.

    All networks share that bridge; only their addresses tell them apart. `port` is one of ours that all of them may come to.
    """

    bridge: str
    interface: str
    port: int


@dataclass(frozen=True, slots=True)
class Address:
    """An address on a network, without and with its prefix's length, and the way out; IPv4 or IPv6."""

    address: str
    prefix: int
    gateway: str

    @property
    def cidr(self) -> str:
        return f"{self.address}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place on a network: what its NIC, its tether and `inspect` need. `dns` is who answers its questions.

    On an external one there may be several such `servers`, `search` domains, and `ports` that are to be open: (protocol, number).
    """

    network: NetworkRecord
    id: str
    mac: str
    ipv4: Address | None
    ipv6: Address | None
    dns: str
    nic: Nic
    interface: str
    wanted: dict[str, Any] = field(default_factory=dict)
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ports: tuple[tuple[str, int], ...] = ()

    @property
    def addresses(self) -> list[Address]:
        return [address for address in (self.ipv4, self.ipv6) if address is not None]

    @property
    def gateway_rank(self) -> tuple[bool, int, str]:
        """The endpoint with the least leads to the outside (moby's sandbox.go: not internal, priority, name)."""
        return self.network.internal, -int(self.wanted.get("GwPriority") or 0), self.network.name


def gateway_endpoint(endpoints: list[Endpoint]) -> Endpoint | None:
    """The one through which a container leaves for elsewhere; None when there is none."""
    outward = [
        endpoint
        for endpoint in endpoints
        if not endpoint.network.internal and (endpoint.ipv4 is not None or endpoint.network.dhcp)
    ]
    return min(outward, key=lambda endpoint: endpoint.gateway_rank, default=None)


def ingress_endpoint(endpoints: list[Endpoint]) -> Endpoint | None:
    """The one that this host's ports and its own name lead to and from; None when there is none."""
    return gateway_endpoint([endpoint for endpoint in endpoints if not endpoint.network.is_external])


def bridge_nic(record: NetworkRecord, mac: str) -> Nic:
    return Nic(mac, bridge=record.bridge or NO_BRIDGE, isolated=not record.on(OPTION_ICC))
