"""Connects containers to networks and, by legacy links, to each other: at their start, and while they run."""

import logging
from collections.abc import Iterable, Sequence

import trio

from appliance.container.container_record import Attachment
from appliance.container.endpoint_settings import EndpointSettings
from appliance.container.links import link_environment, parse_link
from appliance.container.sharing import SHARED_NETWORK, shares_network
from appliance.engine.machines.guest_config import GuestConfig, Link, network_config, state_files
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Run
from appliance.engine.networking.dhcp_leases import DhcpLeases
from appliance.engine.networking.networks import Networks
from appliance.errors import Forbidden, InvalidParameter, NotFound, Unsupported, VchError
from appliance.guest import Lease
from appliance.hypervisor import Pluggable
from appliance.network.network_record import Endpoint, NetworkRecord, ingress_endpoint
from appliance.roles import sees

log = logging.getLogger(__name__)


class Connections:
    """`dns` are the daemon's DNS servers. Errors carry Docker's texts."""

    def __init__(
        self,
        registry: ContainerRegistry,
        repository: ContainerRepository,
        networks: Networks,
        leases: DhcpLeases,
        dns: tuple[str, ...],
    ) -> None:
        self._registry = registry
        self._networks = networks
        self._allocator = networks.allocator
        self._repository = repository
        self._dns = dns
        self._leases = leases

    # -- the guest's configuration ---------------------------------------------------------------------------------

    def guest_config(self, container: Container) -> GuestConfig:
        """The configuration of a container that has its endpoints. InvalidParameter when a linked container does not run."""
        return GuestConfig(container.endpoints, self._dns, tuple(self.links(container)))

    def links(self, container: Container, *, strict: bool = True) -> Iterable[Link]:
        """The legacy links. InvalidParameter when a linked container does not run, or is elsewhere; unless `strict`, it is left out."""
        if not any(endpoint.network.name == "bridge" for endpoint in container.endpoints):
            return
        for text in container.record.host_config.links or ():
            name, alias = parse_link(text)
            target = self._linked(container, name)
            address = _address_on(target, "bridge") if target is not None else ""
            if target is None or not target.running or not address:
                if not strict:
                    continue
                if target is not None and target.running:
                    raise InvalidParameter(
                        f"Cannot link to /{target.record.name}, as it does not belong to the default network"
                    )
                # As in moby, which keeps the link when the linked container is removed.
                found = target.record.name if target is not None else name
                raise InvalidParameter(
                    f"Cannot link to a non running container: /{found} AS /{container.record.name}/{alias}"
                )
            env = link_environment(container.record.name, alias, address, target.record.config)
            names = dict.fromkeys((alias, target.id[:12], target.record.name))
            yield Link(" ".join(names), address, tuple(env))

    def _linked(self, container: Container, name: str) -> Container | None:
        """The container to which a link leads, None if there is none.

        A container of an owner has no links to containers of others, who may have the name of a removed container now.
        """
        try:
            target = self._registry.get(name)
        except NotFound:
            return None
        return target if sees(container.record.owner, target.record.owner) else None

    def take_leases(self, container: Container, leases: Sequence[Lease]) -> bool:
        """Record the addresses that DHCP servers gave the container's guest; True when any of them is new."""
        return self._leases.take(container, leases)

    async def watch(self, container: Container, run: Run) -> None:
        """Keep the container's addresses and files up to date while DHCP servers change its leases."""
        await self._leases.watch(container, run, self.refresh)

    async def refresh(self, container: Container) -> None:
        """Update hosts and resolv.conf of a running container."""
        record = container.record
        if container.run is None or not container.running or shares_network(record.host_config):
            # The files of a shared network are the other container's.
            return
        guest_config = GuestConfig(container.endpoints, self._dns, tuple(self.links(container, strict=False)))
        files = state_files(record.config, record.host_config, guest_config)
        await container.run.session.write_files(files, container.run.network)

    async def notify_linked(self, started: Container) -> None:
        """Write the address of a container that has started into the hosts files of the containers that link to it."""
        for container in self._registry.all():
            if not container.running or container is started:
                continue
            names = {parse_link(text)[0] for text in container.record.host_config.links or ()}
            if names & {started.record.name, started.id}:
                try:
                    await self.refresh(container)
                except VchError as error:
                    log.warning(
                        "the hosts file of container %s keeps the old address of the linked container %s: %s",
                        container.id[:12],
                        started.id[:12],
                        error,
                    )

    # -- connect and disconnect -----------------------------------------------------------------------------------

    async def connect(self, network: str, ref: str, settings: EndpointSettings) -> None:
        """Connect a container to a network, at once if it runs."""
        record, container = self._networks.get(network), self._registry.get(ref)
        self._check_kinds(record, container)
        attachment = Attachment(record.name, settings, record.id)
        self._allocator.check(attachment)
        await container.wait_recovered()
        async with container.lock:
            if any(one.network == record.name for one in container.record.attachments):
                raise Forbidden(f"endpoint with name {container.record.name} already exists in network {record.name}")
            if container.removed:
                raise NotFound(f"No such container: {ref}")
            container.record.attachments.append(attachment)
            try:
                if container.running:
                    await self._plug(container, attachment)
                await self._repository.save(container)
            except BaseException:
                container.record.attachments.remove(attachment)
                raise

    @staticmethod
    def _check_kinds(record: NetworkRecord, container: Container) -> None:
        if shares_network(container.record.host_config):
            raise InvalidParameter(SHARED_NETWORK)
        modes = {attachment.network for attachment in container.record.attachments}
        if record.driver == "host" or "host" in modes:
            raise InvalidParameter("container cannot be disconnected from host network or connected to host network")
        if record.driver == "null" or "none" in modes:
            raise InvalidParameter(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
            )

    async def _plug(self, container: Container, attachment: Attachment) -> None:
        run = await container.require_run()
        if not isinstance(run.machine, Pluggable):
            raise Unsupported("this hypervisor cannot add a NIC to a running machine")
        before = ingress_endpoint(container.endpoints)
        endpoint = self._allocator.acquire(container, attachment)
        plugged = False
        try:
            await run.machine.plug_nic(endpoint.nic)
            plugged = True
            await run.session.apply_network(network_config(container.endpoints), run.network)
            if endpoint.network.dhcp:
                self._leases.take(container, await run.session.leases(run.network))
            await self.refresh(container)
            await self._move_ports(container, before)
        except BaseException:
            with trio.CancelScope(shield=True):
                self._allocator.release(container, endpoint)
                if plugged:
                    await self._unplug_quietly(container, endpoint)
            raise
        self._networks.emit("connect", container, endpoint)

    def _is_on(self, container: Container, attachment: Attachment, record: NetworkRecord) -> bool:
        try:
            return self._allocator.network_of(attachment, container.record.owner) is record
        except (NotFound, InvalidParameter):
            return False

    @staticmethod
    async def _unplug_quietly(container: Container, endpoint: Endpoint) -> None:
        try:
            assert container.run is not None
            assert isinstance(container.run.machine, Pluggable)
            await container.run.machine.unplug_nic(endpoint.mac)
        except VchError as error:
            log.warning("a NIC of container %s was not removed: %s", container.id[:12], error)

    async def _move_ports(self, container: Container, before: Endpoint | None) -> None:
        """Publish the ports again if the container's ingress endpoint has changed."""
        after = ingress_endpoint(container.endpoints)
        if after is None or after is not before:
            self._allocator.published.unpublish(container)
            self._allocator.published.publish(container)

    async def disconnect(self, network: str, ref: str, *, force: bool) -> None:
        """Disconnect a container from a network."""
        record = self._networks.get(network)
        container = self._registry.get(ref)
        await container.wait_recovered()
        async with container.lock:
            attachment = next(
                (one for one in container.record.attachments if self._is_on(container, one, record)), None
            )
            if attachment is None:
                raise Forbidden(f"container {container.id} is not connected to network {record.name}")
            if record.driver == "host" and container.running:
                raise InvalidParameter(
                    "container cannot be disconnected from host network or connected to host network"
                )
            endpoint = next((one for one in container.endpoints if one.network is record), None)
            if endpoint is not None and container.running:
                await self._unplug(container, endpoint, force=force)
            container.record.attachments.remove(attachment)
            await self._repository.save(container)

    async def disconnect_all(self, record: NetworkRecord) -> None:
        """Disconnect all containers from a network that is removed."""
        for container, _ in self._networks.members(record):
            await self.disconnect(record.id, container.id, force=True)

    async def _unplug(self, container: Container, endpoint: Endpoint, *, force: bool) -> None:
        run = await container.current_run()
        before = ingress_endpoint(container.endpoints)
        if endpoint.interface:
            if run is None or not isinstance(run.machine, Pluggable):
                raise Unsupported("this hypervisor cannot remove a NIC from a running machine")
            try:
                await run.machine.unplug_nic(endpoint.mac)
            except VchError:
                if not force:
                    raise
        self._allocator.release(container, endpoint)
        self._networks.emit("disconnect", container, endpoint)
        if run is not None and endpoint.interface:
            # The default route may lead through another NIC now.
            config = network_config(container.endpoints, filtered=endpoint.network.is_external)
            await run.session.apply_network(config, run.network)
            await self.refresh(container)
        await self._move_ports(container, before)


def _address_on(container: Container, network: str) -> str:
    for endpoint in container.endpoints:
        if endpoint.network.name == network and endpoint.ipv4 is not None:
            return endpoint.ipv4.address
    return ""
