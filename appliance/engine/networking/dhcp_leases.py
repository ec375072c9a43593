"""Addresses that DHCP servers give containers on external networks."""

import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence

from appliance.engine.model.container import Container
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Run
from appliance.engine.networking.networks import Networks
from appliance.guest import Lease
from appliance.network.network_record import Address

log = logging.getLogger(__name__)

_MOST = 8

Refresh = Callable[[Container], Awaitable[None]]


class DhcpLeases:
    def __init__(self, networks: Networks, repository: ContainerRepository) -> None:
        self._networks = networks
        self._repository = repository

    def take(self, container: Container, leases: Sequence[Lease]) -> bool:
        """Record the leases that a guest reports on its container's endpoints; True when any of them is new. Invalid leases are skipped."""
        new = False
        for lease in leases:
            try:
                found = ipaddress.ip_interface(lease.address)
                gateway = str(ipaddress.ip_address(lease.gateway)) if lease.gateway else ""
                servers = tuple(str(ipaddress.ip_address(server)) for server in lease.dns[:_MOST])
            except ValueError as error:
                log.warning("container %s has an invalid DHCP lease: %s", container.id[:12], error)
                continue
            address = Address(str(found.ip), found.network.prefixlen, gateway)
            search = tuple(name for name in lease.search[:_MOST] if name.replace(".", "").replace("-", "").isalnum())
            new |= self._networks.allocator.lease(container, lease.interface, address, servers, search)
        has = {lease.interface for lease in leases}
        for endpoint in list(container.endpoints):
            if endpoint.network.dhcp and endpoint.ipv4 is not None and endpoint.interface not in has:
                new |= self._networks.allocator.lease(container, endpoint.interface, None, (), ())
        return new

    async def watch(self, container: Container, run: Run, refresh: Refresh) -> None:
        """Record new leases until the run is over; `refresh` updates the container's files."""
        if not any(record.dhcp for record in self._networks.all()):
            return
        await run.accompany(self._follow, container, run, refresh)

    async def _follow(self, container: Container, run: Run, refresh: Refresh) -> None:
        async def take(leases: list[Lease]) -> None:
            if self.take(container, leases):
                await refresh(container)
                await self._repository.save(container)

        await run.session.watch_leases(take, run.network)
