"""DNS answers for containers, which depend on the container that asks (moby's libnetwork/resolver.go, network.go)."""

from collections.abc import Iterator, Mapping

from appliance.engine.model.container import Container
from appliance.network.dns_server import Answer
from appliance.network.host_resolver import host_resolver
from appliance.network.network_record import Endpoint, gateway_endpoint

_HOST_NAMES = ("host.docker.internal", "gateway.docker.internal")

Members = Mapping[str, Mapping[str, tuple[Container, Endpoint]]]
"""Containers and their endpoints, by network id and container id."""


class Resolver:
    """`dns` are the daemon's DNS servers; without them the host's answer other names."""

    def __init__(self, members: Members, dns: tuple[str, ...]) -> None:
        self._members = members
        self._dns = dns

    def resolve(self, network_id: str, source: str, name: str) -> Answer:
        """See dns_server.Resolve."""
        found = self._asker(network_id, source)
        if found is None:
            return Answer(servers=())
        asker, endpoint = found
        if name in _HOST_NAMES:
            return Answer(tuple(address.gateway for address in endpoint.addresses))
        addresses: list[str] = []
        for own in asker.endpoints:
            if own.network.names_are_known:
                plain = name.removesuffix(f".{own.network.name.lower()}")
                for candidate in {name, plain}:
                    addresses += self._on_network(own, candidate)
        if addresses:
            return Answer(tuple(dict.fromkeys(addresses)))
        if gateway_endpoint(asker.endpoints) is None:
            return Answer(servers=())
        return Answer(servers=tuple(asker.record.host_config.dns or self._dns or host_resolver().servers))

    def _asker(self, network_id: str, source: str) -> tuple[Container, Endpoint] | None:
        for key, members in self._members.items():
            for container, endpoint in members.values():
                # The endpoint of a container on the host network is on the default network.
                here = key == network_id or endpoint.network.driver == "host"
                if here and any(address.address == source for address in endpoint.addresses):
                    return container, endpoint
        return None

    def _on_network(self, own: Endpoint, name: str) -> Iterator[str]:
        wanted = {name}
        for link in own.wanted.links or ():
            target, _, alias = link.partition(":")
            if name == (alias or target).lower():
                wanted.add(target.removeprefix("/").lower())
        for container, endpoint in self._members[own.network.id].values():
            if not wanted.isdisjoint(one.lower() for one in dns_names(container, endpoint)) or container.id in wanted:
                yield from (address.address for address in endpoint.addresses)

    def reverse(self, source: str, address: str) -> str | None:
        """See dns_server.Reverse."""
        for members in self._members.values():
            if not any(one.address == source for _, endpoint in members.values() for one in endpoint.addresses):
                continue
            for container, endpoint in members.values():
                if endpoint.network.names_are_known and any(one.address == address for one in endpoint.addresses):
                    return f"{container.record.name}.{endpoint.network.name}"
        return None


def dns_names(container: Container, endpoint: Endpoint) -> list[str]:
    """The DNS names of a container on a network, as inspect shows them."""
    names = [container.record.name, *(endpoint.wanted.aliases or ()), container.id[:12]]
    names.append(container.record.config.hostname)
    return [name for name in dict.fromkeys(names) if name]
