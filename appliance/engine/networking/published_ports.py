"""Ports of the host that lead to containers."""

from collections.abc import Iterator
from dataclasses import replace

import trio

from appliance.container.container_record import Binding
from appliance.engine.model.container import Container
from appliance.errors import InvalidParameter
from appliance.network.firewall import Publication
from appliance.network.host import HostNetwork
from appliance.network.network_record import OPTION_HOST_IP, Endpoint, ingress_endpoint
from appliance.network.ports import PortRequest, Ports, each_port, forwards, parse_bindings

Members = dict[str, dict[str, tuple[Container, Endpoint]]]
"""Containers and their endpoints, by network id and container id."""


class PublishedPorts:
    """Takes, forwards and releases the ports of running containers. `members` is shared with the endpoint allocator."""

    def __init__(self, host: HostNetwork, nursery: trio.Nursery, members: Members) -> None:
        self._host = host
        self._ports = Ports(host, nursery)
        self._members = members

    def all(self) -> list[Publication]:
        """See Ports.published."""
        return self._ports.published()

    def retake(self, container: Container) -> None:
        """Take the ports that a container had before the daemon restarted."""
        for holder, bindings in _by_holder(container):
            self._ports.retake(holder, bindings)
        self._forward_ports(container)

    def publish(self, container: Container) -> None:
        """Take the host's ports that the container asks for, and forward them to the container's ingress endpoint.

        A container that is on external networks only is reached at its own address and ports.
        """
        target = ingress_endpoint(container.endpoints)
        wanted = list(port_requests(container))
        if target is None and wanted:
            external = next((one for one in container.endpoints if one.network.is_external), None)
            container.record.bindings = own_ports(external, wanted) if external is not None else []
        if target is None or not target.interface or not wanted:
            return
        container.record.bindings = self._take(container, target, container.id, wanted)
        self._forward_ports(container)

    def _take(self, container: Container, target: Endpoint, holder: str, wanted: list[PortRequest]) -> list[Binding]:
        label = f"{container.record.name} ({target.id})"
        return self._ports.take(holder, label, wanted, target.network.options.get(OPTION_HOST_IP, ""))

    def _forward_ports(self, container: Container) -> None:
        target = ingress_endpoint(container.endpoints)
        if target is None or target.ipv4 is None or not container.record.bindings:
            return
        for holder, bindings in _by_holder(container):
            self._forward_to(target, holder, bindings)
        self._update_nic(container)

    def _forward_to(self, target: Endpoint, holder: str, bindings: list[Binding]) -> None:
        assert target.ipv4 is not None
        if self._host.bridged:
            self._ports.forward(holder, bindings, target.ipv4.address, target.ipv6.address if target.ipv6 else "")
        else:
            # The hypervisor listens at the host's ports.
            self._ports.hand_over(holder)

    def _update_nic(self, container: Container) -> None:
        """Without bridges the NIC's settings contain the forwarded ports."""
        target = ingress_endpoint(container.endpoints)
        if self._host.bridged or target is None or target.ipv4 is None:
            return
        nic = replace(target.nic, forwards=forwards(container.record.bindings, target.ipv4.address))
        updated = replace(target, nic=nic)
        container.endpoints[container.endpoints.index(target)] = updated
        self._members[target.network.id][container.id] = (container, updated)

    def unpublish(self, container: Container) -> None:
        """Release the ports; the endpoints stay."""
        for holder, _ in _by_holder(container):
            self._ports.release(holder)
        container.record.bindings = []

    def publish_port(self, container: Container, protocol: str, port: int) -> None:
        """Take the host's port of the same number, for a container on the host's network.

        VchError with Docker's text when the port is in use.
        """
        target = ingress_endpoint(container.endpoints)
        if target is None or target.ipv4 is None:
            return
        holder = _holder(container, protocol, port)
        bindings = self._take(container, target, holder, [PortRequest(protocol, port, "", port, port)])
        try:
            self._forward_to(target, holder, bindings)
        except BaseException:
            self._ports.release(holder)
            raise
        container.record.bindings += bindings
        self._update_nic(container)

    def unpublish_port(self, container: Container, protocol: str, port: int) -> None:
        """Undo `publish_port`."""
        self._ports.release(_holder(container, protocol, port))
        container.record.bindings = [
            one for one in container.record.bindings if (one.protocol, one.port) != (protocol, port)
        ]
        self._update_nic(container)


def own_ports(endpoint: Endpoint, wanted: list[PortRequest]) -> list[Binding]:
    """Ports on the container's own address. InvalidParameter when the client asks for another address or number."""
    host = endpoint.ipv4.address if endpoint.ipv4 is not None else "0.0.0.0"
    for one in wanted:
        if one.host_ip not in ("", "0.0.0.0", "::") or not (one.first == 0 or one.first <= one.port <= one.last):
            raise InvalidParameter(
                f"on network {endpoint.network.name} a container has its own address: port {one.port}/{one.protocol} is published "
                "at this address and with this number only"
            )
    return [Binding(one.protocol, one.port, host, one.port) for one in wanted]


def _holder(container: Container, protocol: str, port: int) -> str:
    """The name under which a port is held. On the host's network each port has its own, since ports come and go one by one."""
    return f"{container.id}/{port}/{protocol}" if container.on_host_network else container.id


def _by_holder(container: Container) -> list[tuple[str, list[Binding]]]:
    held: dict[str, list[Binding]] = {}
    for one in container.record.bindings:
        held.setdefault(_holder(container, one.protocol, one.port), []).append(one)
    return list(held.items())


def port_requests(container: Container) -> Iterator[PortRequest]:
    """The ports that a container asks to publish, by PortBindings and PublishAllPorts. None on the host's network."""
    record = container.record
    if container.on_host_network:
        # HostPorts publishes each port once the container listens at it.
        return
    bindings = record.host_config.port_bindings or {}
    yield from parse_bindings(bindings)
    if not record.host_config.publish_all_ports:
        return
    exposed = record.config.exposed_ports or {}
    for port, protocol in sorted(each_port(exposed), key=lambda one: (one[1], one[0])):
        if protocol != "sctp" and f"{port}/{protocol}" not in bindings:
            yield PortRequest(protocol, port, "", 0, 0)
