"""Endpoints of containers on networks, with addresses, MACs and NICs: planned at creation, acquired at a start, released at the end."""

import ipaddress
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace

import trio

from appliance.container.config import ContainerConfig
from appliance.container.container_record import Attachment
from appliance.container.endpoint_settings import EndpointIPAMConfig, EndpointSettings
from appliance.container.host_config import HostConfig
from appliance.container.sharing import shares_network
from appliance.engine.model.container import Container
from appliance.engine.networking.published_ports import PublishedPorts, own_ports, port_requests
from appliance.errors import Forbidden, InvalidParameter, NotFound, VchError
from appliance.hypervisor import NO_BRIDGE, Nic
from appliance.network.addresses import Subnet, mac_of, parse_subnet
from appliance.network.host import HostNetwork
from appliance.network.network_record import (
    SWARM,
    Address,
    Endpoint,
    NetworkRecord,
    Pool,
    bridge_nic,
    ingress_endpoint,
)

log = logging.getLogger(__name__)


class EndpointAllocator:
    """`find` gives a network by its name or id. Errors carry Docker's texts."""

    def __init__(self, host: HostNetwork, nursery: trio.Nursery, find: Callable[[str], NetworkRecord]) -> None:
        self._host = host
        self._find = find
        self._subnets: dict[str, list[Subnet]] = {}
        # The containers on each network now, by network id and container id.
        self.endpoints: dict[str, dict[str, tuple[Container, Endpoint]]] = {}
        self.published = PublishedPorts(host, nursery, self.endpoints)

    # -- networks -------------------------------------------------------------------------------------------------

    def open(self, record: NetworkRecord) -> None:
        """Begin to allocate endpoints on a network. InvalidParameter when its pools are invalid."""
        self.endpoints[record.id] = {}
        if record.is_bridge or record.is_external:
            label = f"{record.name} ({record.id})"
            self._subnets[record.id] = [
                Subnet(pool, label, self._reserved(pool), external=record.is_external) for pool in record.used_pools
            ]

    def close(self, record: NetworkRecord) -> None:
        """Stop to allocate endpoints on a network that is removed."""
        self.endpoints.pop(record.id, None)
        self._subnets.pop(record.id, None)

    def _reserved(self, pool: Pool) -> list[str]:
        return [] if self._host.bridged else [_user_mode_dns(pool)]

    def members(self, record: NetworkRecord) -> list[tuple[Container, Endpoint]]:
        """The containers on the network, with their endpoints."""
        return list(self.endpoints[record.id].values())

    @property
    def blank(self) -> Endpoint:
        """An unassigned endpoint, for machines that rehearse without a network peer."""
        record = self._find("bridge")
        address = self._subnets[record.id][0].blank
        mac = mac_of(address.address)
        nic = Nic(mac, bridge=NO_BRIDGE) if self._host.bridged else self._nic(record, mac)
        return Endpoint(record, "", mac, address, None, self._dns(record, address), nic, "eth0")

    @contextmanager
    def for_file_session(self) -> Iterator[Endpoint]:
        """An endpoint on the default network for the machine of a file session, until the block ends."""
        record = self._find("bridge")
        subnet = self._subnets[record.id][0]
        address = subnet.take("")
        mac = mac_of(address.address)
        try:
            yield Endpoint(record, "", mac, address, None, self._dns(record, address), self._nic(record, mac), "eth0")
        finally:
            subnet.release(address.address)

    # -- containers -----------------------------------------------------------------------------------------------

    def plan(
        self, config: ContainerConfig, host_config: HostConfig, wanted: dict[str, EndpointSettings]
    ) -> list[Attachment]:
        """The attachments of a new container; `wanted` are EndpointSettings by a network's name or id.

        As in Docker, a container is on exactly the networks of `wanted`, if there are any, and else on the network of its
        NetworkMode (moby's updateContainerNetworkSettings). A container with the network of another container is on none. The start
        and not the creation reports a network that does not exist.
        """
        mode = host_config.network_mode or "default"
        if config.network_disabled:
            mode = "none"
        if shares_network(host_config):
            return []
        primary, primary_id = self._names_of(mode)
        ids = {} if wanted else {primary: primary_id}
        settings: dict[str, EndpointSettings] = {}
        for ref, given in wanted.items():
            name, network_id = self._names_of(ref)
            settings[name] = copy(given)
            if ids.setdefault(name, network_id) != network_id:
                raise InvalidParameter(f"a container cannot be on two networks that are called {name}")
        if primary in ("none", "host") and ids.keys() != {primary}:
            raise InvalidParameter(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
            )
        attachments = [
            Attachment(name, settings.get(name) or EndpointSettings(), ids[name])
            for name in sorted(ids, key=lambda name: name != primary)
        ]
        first = attachments[0].wanted
        first.mac_address = first.mac_address or config.mac_address or ""
        if host_config.links and primary not in ("bridge", "none", "host"):
            first.links = [*(first.links or ()), *host_config.links]
        for attachment in attachments:
            self.check(attachment)
        return attachments

    def _names_of(self, ref: str) -> tuple[str, str]:
        """A network's (name, id); (`ref`, "") when there is no such network."""
        try:
            record = self._find(ref)
        except NotFound:
            return ref, ""
        return record.name, record.id

    def network_of(self, attachment: Attachment, owner: str = "") -> NetworkRecord:
        """The network to which an owner's container is attached. NotFound when there is none; InvalidParameter for an ambiguous name.

        A new network of the same name takes the place of a removed network, unless another owner has made it.
        """
        try:
            return self._find(attachment.network_id)
        except NotFound:
            record = self._find(attachment.network)
        if record.owner != owner and not record.predefined:
            raise NotFound(f"network {attachment.network} not found")
        return record

    def check(self, attachment: Attachment) -> None:
        """Check the endpoint settings against the network. InvalidParameter with Docker's text."""
        try:
            record = self.network_of(attachment)
        except NotFound:
            return
        wanted = attachment.wanted
        before = "invalid endpoint settings:\n"
        if wanted.aliases and not record.names_are_known:
            raise InvalidParameter(f"{before}network-scoped aliases are only supported for user-defined networks")
        ipam = wanted.ipam_config or EndpointIPAMConfig()
        for text, version in ((ipam.ipv4_address, 4), (ipam.ipv6_address, 6)):
            if not text:
                continue
            try:
                address = ipaddress.ip_address(text)
            except ValueError as error:
                raise InvalidParameter(f"{before}invalid IPv{version} address: {text}") from error
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

    def acquire_all(self, container: Container) -> None:
        """Acquire endpoints on all the container's networks, and its ports: all or nothing."""
        assert not container.endpoints
        try:
            for attachment in container.record.attachments:
                self.acquire(container, attachment)
            self.published.publish(container)
        except BaseException:
            self.release_all(container)
            raise

    def acquire(self, container: Container, attachment: Attachment, *, again: bool = False) -> Endpoint:
        """Acquire one endpoint; with `again` the endpoint in the record of a container that runs since before the daemon's restart."""
        record = self.network_of(attachment, container.record.owner)
        if record.scope == SWARM and not record.attachable:
            raise Forbidden(
                f"Could not attach to network {attachment.network}: rpc error: code = PermissionDenied desc = network {record.name} "
                "not manually attachable"
            )
        attachment.network_id = record.id
        wanted = attachment.wanted
        ipam = wanted.ipam_config or EndpointIPAMConfig()
        # The host network is emulated: an endpoint on the default network, whose ports are published.
        carrier = self._find("bridge") if record.driver == "host" else record
        found: list[Address | None] = [None, None]
        try:
            for index, (version, fixed, have) in enumerate(
                ((4, ipam.ipv4_address or "", attachment.address), (6, ipam.ipv6_address or "", attachment.address6))
            ):
                subnet = self._subnet(carrier, version, have if again else fixed)
                if subnet is None:
                    if fixed and (version == 4 or record.ipv6):
                        raise InvalidParameter(f"no configured subnet contains IP address {fixed}")
                elif not again:
                    found[index] = subnet.take(fixed)
                elif have:
                    found[index] = subnet.retake(have)
        except BaseException:
            self._release_addresses(carrier, found)
            raise
        ipv4, ipv6 = found
        if not again:
            attachment.endpoint = secrets.token_hex(32)
            attachment.mac = wanted.mac_address.lower() or (
                mac_of(ipv4.address) if ipv4 is not None else f"02:42:{secrets.token_bytes(4).hex(':')}"
            )
            attachment.address = ipv4.address if ipv4 is not None else ""
            attachment.address6 = ipv6.address if ipv6 is not None else ""
            attachment.interface = self._free_interface(container) if record.driver != "null" else ""
        endpoint = Endpoint(
            record,
            attachment.endpoint,
            attachment.mac if attachment.interface else "",
            ipv4,
            ipv6,
            self._dns(carrier, ipv4),
            self._nic(carrier, attachment.mac),
            attachment.interface,
            wanted,
        )
        if record.is_external:
            ports = tuple((one.protocol, one.port) for one in port_requests(container))
            endpoint = replace(endpoint, servers=tuple(record.dns), ports=ports)
        container.endpoints.append(endpoint)
        self.endpoints[record.id][container.id] = (container, endpoint)
        return endpoint

    @staticmethod
    def _free_interface(container: Container) -> str:
        used = {endpoint.interface for endpoint in container.endpoints}
        return next(f"eth{number}" for number in range(len(used) + 1) if f"eth{number}" not in used)

    def _dns(self, carrier: NetworkRecord, ipv4: Address | None) -> str:
        if ipv4 is None or carrier.is_external:
            return ""
        return ipv4.gateway if self._host.bridged else _user_mode_dns(carrier.pools[0])

    def _nic(self, carrier: NetworkRecord, mac: str) -> Nic:
        if self._host.bridged:
            return bridge_nic(carrier, mac)
        if not carrier.pools:
            return Nic(mac)
        pool = carrier.pools[0]
        return Nic(mac, pool.subnet, pool.gateway, _user_mode_dns(pool))

    def _release_addresses(self, carrier: NetworkRecord, addresses: Iterable[Address | None]) -> None:
        for address in addresses:
            if address is not None:
                subnet = self._subnet(carrier, 6 if ":" in address.address else 4, address.address)
                if subnet is not None:
                    subnet.release(address.address)

    def lease(
        self,
        container: Container,
        interface: str,
        address: Address | None,
        servers: tuple[str, ...],
        search: tuple[str, ...],
    ) -> bool:
        """Record a DHCP lease of the interface; `address` None: the lease has ended. True when it differs from the endpoint."""
        old = next((one for one in container.endpoints if one.interface == interface and one.network.dhcp), None)
        if old is None:
            return False
        servers = tuple(old.network.dns) or servers
        endpoint = replace(old, ipv4=address, servers=servers, search=search)
        if endpoint == old:
            return False
        container.endpoints[container.endpoints.index(old)] = endpoint
        self.endpoints[old.network.id][container.id] = (container, endpoint)
        for attachment in container.record.attachments:
            if attachment.network_id == old.network.id:
                attachment.address = address.address if address is not None else ""
        if ingress_endpoint(container.endpoints) is None:
            container.record.bindings = own_ports(endpoint, list(port_requests(container)))
        return True

    def release(self, container: Container, endpoint: Endpoint) -> None:
        """Release one endpoint."""
        # Compared by id: a DHCP lease may have replaced the endpoint.
        container.endpoints[:] = [one for one in container.endpoints if one.id != endpoint.id]
        record = endpoint.network
        self.endpoints.get(record.id, {}).pop(container.id, None)
        self._release_addresses(self._find("bridge") if record.driver == "host" else record, endpoint.addresses)
        for attachment in container.record.attachments:
            if attachment.network_id == record.id:
                attachment.clear()

    def release_all(self, container: Container) -> list[Endpoint]:
        """Release all endpoints and ports; return the released endpoints."""
        self.published.unpublish(container)
        released = list(container.endpoints)
        for endpoint in released:
            self.release(container, endpoint)
        return released

    @staticmethod
    def forget(container: Container) -> None:
        """Clear the record of endpoints and ports of a machine that is gone."""
        container.record.bindings = []
        for attachment in container.record.attachments:
            attachment.clear()

    def reacquire_all(self, container: Container) -> None:
        """Acquire the endpoints and ports in the record of a container that was found running."""
        for attachment in container.record.attachments:
            try:
                self.acquire(container, attachment, again=True)
            except VchError as error:
                log.warning("container %s is no longer on network %s: %s", container.id[:12], attachment.network, error)
        if ingress_endpoint(container.endpoints) is not None:
            self.published.retake(container)


def _user_mode_dns(pool: Pool) -> str:
    """The address of the DNS server of user-mode networking: the last usable one of the subnet."""
    return str(parse_subnet(pool.subnet)[-2])
