"""What a container holds while it has a machine: endpoints and ports on networks, and volumes that are disks."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from appliance.container.host_config import Ulimit
from appliance.engine.machines.guest_config import GuestConfig, ProcessConfig, process_config
from appliance.engine.model.container import Container
from appliance.engine.networking.connections import Connections
from appliance.engine.networking.networks import Networks
from appliance.engine.volumes import Volumes
from appliance.guest import Lease
from appliance.network.network_record import Endpoint


class RunResources:
    """`ulimits` are the daemon's, for containers that do not set these ulimits themselves."""

    def __init__(
        self, networks: Networks, connections: Connections, volumes: Volumes, ulimits: Sequence[Ulimit] = ()
    ) -> None:
        self._networks = networks
        self._allocator = networks.allocator
        self._connections = connections
        self._volumes = volumes
        self._ulimits = tuple(ulimits)

    def acquire(self, container: Container) -> None:
        """Take the container's endpoints on all its networks, and its ports: all or nothing."""
        self._allocator.acquire_all(container)

    def reacquire(self, container: Container) -> None:
        """Take the endpoints, ports and volumes that a running machine has according to the container's record."""
        self._allocator.reacquire_all(container)
        self._volumes.hold_disks(container)

    def release(self, container: Container) -> list[Endpoint]:
        """Release endpoints and ports; return the released endpoints. The machine may still have the disks."""
        return self._allocator.release_all(container)

    def release_disks(self, container: Container) -> None:
        """Release the disks. The container's machine is gone."""
        self._volumes.release_disks(container)

    def disk_holders(self, container: Container) -> list[Container]:
        """Other containers that hold a disk which the container needs."""
        return self._volumes.holders(container)

    async def guest_config(self, container: Container, neighbours: Collection[str] = ()) -> GuestConfig:
        """The configuration of the container's guest. The container holds the disks of its volumes from now on, and so may `neighbours`.

        InvalidParameter, NotFound or Conflict say why the container cannot start.
        """
        config = self._connections.guest_config(container)
        return replace(config, mount_plan=await self._volumes.mount_plan(container, neighbours), ulimits=self._ulimits)

    def process_config(self, container: Container) -> ProcessConfig:
        """The configuration of a further process in a running container.

        As in moby (setupLinkedContainers), links count as they are now: InvalidParameter when a linked container does not run.
        """
        record = container.record
        return process_config(record.config, record.host_config, self._connections.links(container), self._ulimits)

    def take_leases(self, container: Container, leases: Sequence[Lease]) -> bool:
        """Record the addresses that DHCP servers gave the container's guest; True when any of them is new."""
        return self._connections.take_leases(container, leases)

    def announce_start(self, container: Container) -> None:
        """Publish the events `connect` and `mount`."""
        for endpoint in container.endpoints:
            self._networks.emit("connect", container, endpoint)
        self._volumes.emit("mount", container)

    def announce_end(self, container: Container, released: Sequence[Endpoint]) -> None:
        """Publish the events `disconnect` and `unmount`."""
        for endpoint in released:
            self._networks.emit("disconnect", container, endpoint)
        self._volumes.emit("unmount", container)

    async def notify_linked(self, container: Container) -> None:
        """Write the address of a container that has started into the hosts files of the containers that link to it."""
        await self._connections.notify_linked(container)
