"""The environment of a container: endpoints, names, links, mounts; and the files and settings of its guest that follow from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from appliance.config import ends_of
from appliance.container.config import ContainerConfig
from appliance.container.endpoint_settings import EndpointIPAMConfig
from appliance.container.guest_paths import STATE
from appliance.container.host_config import HostConfig, Ulimit
from appliance.container.merge import merge_ulimits
from appliance.container.spec import tmpfs_mount
from appliance.engine.model.layout import Layout, tmpfs_target
from appliance.engine.model.mount_plan import MountPlan, PlacedMount
from appliance.guest import GuestVolume, Interface, NetworkConfig, StateFile
from appliance.network.host_resolver import HostResolver, host_resolver, resolver_without_network
from appliance.network.network_record import Endpoint, gateway_endpoint, ingress_endpoint
from tether.launch import oci

if TYPE_CHECKING:
    from appliance.network.guest_firewall import FilteredNic

_IPV6_HOSTS = (
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::\tip6-localnet",
    "ff00::\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)


@dataclass(frozen=True, slots=True)
class Link:
    """A legacy link: names and address of another container, and the environment variables that describe it."""

    names: str
    address: str
    env: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuestConfig:
    """A container's endpoints, the daemon's DNS servers, legacy links, mounts, and the daemon's default ulimits."""

    endpoints: list[Endpoint]
    dns: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    mount_plan: MountPlan = field(default_factory=MountPlan)
    ulimits: tuple[Ulimit, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """The configuration of a container's processes: its own, with what its links and the daemon add."""

    config: ContainerConfig
    host_config: HostConfig


def process_config(
    config: ContainerConfig, host_config: HostConfig, links: Iterable[Link], ulimits: Sequence[Ulimit]
) -> ProcessConfig:
    """Add the variables of the links and the daemon's ulimits. As in moby, what the container sets itself wins."""
    linked = [entry for link in links for entry in link.env]
    if linked:
        config = msgspec.structs.replace(config, env=[*linked, *(config.env or ())])
    return ProcessConfig(config, merge_ulimits(host_config, ulimits))


def state_files(config: ContainerConfig, host_config: HostConfig, guest_config: GuestConfig) -> list[StateFile]:
    """The files hosts, resolv.conf and hostname of a container."""
    hostname = config.hostname
    full = f"{hostname}.{config.domainname}" if config.domainname else hostname
    # As in moby (libnetwork/sandbox_dns_unix.go), the name up to the first dot is an alias.
    short, dot, _ = full.partition(".")
    names = f"{full} {short}" if dot else full
    hosts = ["127.0.0.1\tlocalhost", *_IPV6_HOSTS]
    out, home = gateway_endpoint(guest_config.endpoints), ingress_endpoint(guest_config.endpoints)
    for entry in host_config.extra_hosts or ():
        name, _, address = entry.partition(":")
        if address == "host-gateway":
            address = home.ipv4.gateway if home is not None and home.ipv4 is not None else ""
        if address:
            hosts.append(f"{address.strip('[]')}\t{name}")
    hosts += [f"{link.address}\t{link.names}" for link in guest_config.links]
    for endpoint in guest_config.endpoints:
        hosts += [f"{address.address}\t{names}" for address in endpoint.addresses]
    sysctls = host_config.sysctls or {}
    if any(sysctls.get(f"net.ipv6.conf.{nic}.disable_ipv6") == "1" for nic in ("all", "lo")):
        # Names must not lead to addresses that cannot be reached.
        hosts = [line for line in hosts if ":" not in line.partition("\t")[0]]
    contents = {"hosts": hosts, "resolv.conf": _resolv_conf(host_config, guest_config, out), "hostname": [hostname]}
    return [StateFile(name, ("\n".join(lines) + "\n").encode()) for name, lines in contents.items()]


def _resolv_conf(host_config: HostConfig, guest_config: GuestConfig, out: Endpoint | None) -> list[str]:
    """As in moby, the host's resolv.conf(5), in which Docker's servers and the client's settings replace the host's."""
    knows_names = [endpoint for endpoint in guest_config.endpoints if endpoint.network.names_are_known]
    asked = out or next(iter(guest_config.endpoints), None)
    if asked is None or asked.network.driver == "null":
        base = resolver_without_network()
        offered = base.servers
    elif asked.network.is_external:
        # What the network's DHCP servers say, not the daemon's host.
        base = HostResolver(search=asked.search)
        offered = (asked.dns,)
    else:
        base = host_resolver()
        offered = (asked.dns,)
    servers = list(host_config.dns or ())
    if knows_names and asked is not None and asked.nic.bridge:
        # The daemon's DNS server answers, and forwards other queries to the container's servers.
        servers = [(asked if asked.dns else knows_names[0]).dns]
    elif not servers:
        servers = list((asked.servers if asked is not None else ()) or guest_config.dns or offered)
    search = [domain for domain in host_config.dns_search or base.search if domain != "."]
    options = list(host_config.dns_options or base.options)
    if knows_names:
        options = [option for option in options if not _is_wrong_ndots(option)]
        if not any(option.startswith("ndots:") for option in options):
            # What moby's resolver requires (Resolver.ResolverOptions).
            options.append("ndots:0")
    lines = [f"nameserver {server}" for server in servers if server]
    if search:
        lines.append(f"search {' '.join(search)}")
    if options:
        lines.append(f"options {' '.join(options)}")
    return [*lines, *base.other]


def _is_wrong_ndots(option: str) -> bool:
    name, _, value = option.partition(":")
    return name == "ndots" and not value.isdecimal()


def _link_local(endpoint: Endpoint) -> list[str]:
    """The link-local addresses that the client asked for, as CIDRs (RFC 3927, RFC 4291)."""
    wanted = (endpoint.wanted.ipam_config or EndpointIPAMConfig()).link_local_ips or ()
    return [f"{address}/{64 if ':' in address else 16}" for address in wanted]


def network_config(endpoints: list[Endpoint], unmatched: int = 0, *, filtered: bool = False) -> NetworkConfig:
    """Configure all NICs. The first `unmatched` NICs are found by index and are given their MAC address.

    `filtered`: the guest has filter rules already, which this replaces even if no endpoint needs any now.
    """
    out = gateway_endpoint(endpoints)
    interfaces = []
    for index, endpoint in enumerate(endpoint for endpoint in endpoints if endpoint.interface):
        dhcp = endpoint.network.dhcp
        interfaces.append(
            Interface(
                mac=endpoint.mac,
                set_mac=index < unmatched,
                index=index,
                name=endpoint.interface,
                addresses=[*(address.cidr for address in endpoint.addresses if not dhcp), *_link_local(endpoint)],
                gateways=[address.gateway for address in endpoint.addresses if endpoint is out and not dhcp],
                mtu=endpoint.network.mtu,
                dhcp=dhcp,
                dhcp_route=dhcp and endpoint is out,
            )
        )
    rules = b""
    if filtered or any(endpoint.network.is_external for endpoint in endpoints):
        # Imported here: only external networks need this module.
        from appliance.network.guest_firewall import messages

        rules = messages(_gate(endpoint) for endpoint in endpoints if endpoint.network.is_external)
    return NetworkConfig(interfaces, rules)


def _gate(endpoint: Endpoint) -> "FilteredNic":
    from appliance.network.guest_firewall import FilteredNic

    network = endpoint.network
    peers = ("", "")
    if network.pools:
        peers = ends_of(network.pools[0].ip_range or network.pools[0].subnet)
    return FilteredNic(endpoint.interface, network.firewall, endpoint.ports, peers)


def _source(placed: PlacedMount, layout: Layout) -> str:
    """The path in the guest that is bind-mounted at the mount's destination."""
    base = layout.paths.base
    if placed.socket is not None:
        return f"{STATE}/sockets/{placed.socket.number}"
    if placed.guest:
        return f"{STATE}/modules{placed.guest}"
    part = f"/{placed.mount.subpath}" if placed.mount.subpath else ""
    if placed.server is not None:
        return f"{base}/served/{placed.server.number}{part}"
    if placed.share >= 0:
        return layout.shares[placed.share]
    if placed.tmpfs_volume >= 0:
        return f"{tmpfs_target(base, placed.tmpfs_volume)}{part}"
    # The root of the disk contains lost+found, so the data is in a directory.
    return f"{base}/disks/{placed.disk}/data{part}"


def volumes_of(mount_plan: MountPlan, layout: Layout, endpoints: Sequence[Endpoint] = ()) -> list[GuestVolume]:
    """The volumes that the guest prepares before a process starts. Without endpoints, NFS volumes are left out."""
    own = next((f"clientaddr={one.ipv4.address}" for one in endpoints if one.ipv4 is not None), "")
    found = []
    for placed in mount_plan.placed:
        if placed.is_tmpfs or placed.socket is not None or (placed.server is not None and not endpoints):
            continue
        in_memory = placed.tmpfs_volume >= 0
        volume = GuestVolume(
            source=_source(placed, layout),
            destination=placed.mount.destination,
            read_only=placed.mount.read_only,
            # Docker fills a volume when it creates the container, and a tmpfs volume loses those files before the start.
            copy_up=placed.mount.type == "volume" and not (placed.mount.no_copy or placed.mount.subpath or in_memory),
            make=placed.share < 0 and not (placed.guest or placed.mount.subpath or in_memory),
        )
        if placed.server is not None:
            options = [*placed.server.options, *([own] if own else [])]
            volume = replace(volume, type="nfs4", device=placed.server.device, options=options)
        found.append(volume)
    return sorted(found, key=lambda volume: volume.destination.count("/"))


def own_mounts(mount_plan: MountPlan, layout: Layout) -> list[oci.Mount]:
    """The mounts of a spec for the container's own mounts."""
    found = []
    for placed in mount_plan.placed:
        if placed.is_tmpfs:
            found.append(tmpfs_mount(placed.mount.destination, placed.tmpfs))
            continue
        options = ("rbind", "rprivate", *(("ro",) if placed.mount.read_only else ()))
        found.append(oci.Mount(placed.mount.destination, "bind", _source(placed, layout), options))
    return found
