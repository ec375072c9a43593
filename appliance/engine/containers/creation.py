"""`docker create`: from a complete configuration to a container that is stored and has its disk and volumes."""

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from appliance.container.capabilities import capabilities
from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.daemon_objects import check_not_reserved
from appliance.container.endpoint_settings import EndpointSettings
from appliance.container.host_config import HostConfig, Ulimit
from appliance.container.lifecycle import Created
from appliance.container.links import parse_link
from appliance.container.merge import merge_config
from appliance.container.mounts import MountRecord
from appliance.container.sharing import machine_memory, machine_name, pin
from appliance.container.spec import arguments
from appliance.engine.containers.random_names import random_name
from appliance.engine.containers.storage import ContainerStorage
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.networking.endpoints import EndpointAllocator
from appliance.engine.volumes import Volumes
from appliance.errors import InvalidParameter, NotFound
from appliance.hypervisor import Capacity, own_capacity
from appliance.image.platform import Platform
from appliance.image.store import ImageStore
from appliance.roles import LOCAL, Principal, Role, socket_role

_RANDOM_NAMES = 100


async def _this_host() -> Capacity:
    return own_capacity()


async def _all_devices(host_config: HostConfig) -> None:
    pass


@dataclass(frozen=True, slots=True)
class ContainerDefaults:
    """The daemon's settings for containers that do not set these themselves: ulimits, and the role of the container's API socket.

    `capacity` returns what a container can have at most. `check_devices` raises an error for devices that the hypervisor does not offer.
    """

    ulimits: Sequence[Ulimit] = ()
    socket_role: Role = Role.FULL
    capacity: Callable[[], Awaitable[Capacity]] = _this_host
    check_devices: Callable[[HostConfig], Awaitable[None]] = _all_devices


class ContainerCreation:
    """Errors carry Docker's texts."""

    def __init__(
        self,
        registry: ContainerRegistry,
        repository: ContainerRepository,
        images: ImageStore,
        allocator: EndpointAllocator,
        volumes: Volumes,
        storage: ContainerStorage,
        defaults: ContainerDefaults = ContainerDefaults(),
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._images = images
        self._allocator = allocator
        self._volumes = volumes
        self._storage = storage
        self.ulimits = defaults.ulimits
        self._capacity = defaults.capacity
        self._check_devices = defaults.check_devices
        self._socket_role = defaults.socket_role

    def is_api_mount(self, mount: MountRecord) -> bool:
        """Whether a mount that a client with a scope asks for leads to the daemon's own API."""
        return self._volumes.binds.is_api(mount, scoped=True)

    async def cpus(self) -> int:
        """How many CPUs a container can have."""
        return (await self._capacity()).cpus

    def check_platform(self, image: str, platform: Platform) -> list[str]:
        """NotFound when the client asked for another platform than the image's; a warning when the image's is not the daemon's."""
        actual = self._images.config(self._images.get(image).id).platform
        if platform.fits(actual):
            return []
        if platform.given:
            raise NotFound(
                f"image with reference {image} was found but its platform ({actual}) "
                f"does not match the specified platform ({platform})"
            )
        return [
            f"The requested image's platform ({actual}) does not match the detected host platform ({platform}) "
            "and no specific platform was requested"
        ]

    async def create(
        self,
        name: str,
        config: ContainerConfig,
        host_config: HostConfig,
        networks: dict[str, EndpointSettings],
        creator: Principal = LOCAL,
        *,
        role: str = "",
    ) -> Container:
        """Make a container of a complete configuration; `config.image` names an image in the store.

        `networks` are EndpointSettings by a network's name or id. The container belongs to the scope of its creator.
        A container with a `role` is the daemon's own.
        """
        if not role:
            check_not_reserved(config.labels or {})
        api_role = socket_role(config.labels or {}, self._socket_role, creator)
        image = self._images.get(config.image)
        merged = merge_config(config, self._images.config(image.id).config)
        arguments(merged)
        capabilities(host_config)
        await self._check_devices(host_config)
        # Labels of the image do not count: an image must not choose its neighbours.
        labels = config.labels or {}
        shared_machine, least_memory = machine_name(labels), machine_memory(labels)
        host_config = pin(host_config, lambda ref: self._registry.get(ref).id)
        attachments = self._allocator.plan(merged, host_config, networks)
        for link in host_config.links or ():
            self._check_link(parse_link(link)[0])
        await self._storage.check_quota()
        container_id = secrets.token_hex(32)
        name = self._registry.take_name(name or self._free_name(), container_id, creator.scope)
        if not merged.hostname:
            merged.hostname = container_id[:12]
        now = time.time_ns()
        record = ContainerRecord(
            container_id,
            name,
            now,
            image.id,
            config.image,
            merged,
            host_config,
            attachments=attachments,
            owner=creator.scope,
            socket_role=api_role.value,
            machine_name=shared_machine,
            machine_memory=least_memory,
            role=role,
        )
        container = Container(record, self._storage.folder(container_id), Created())
        try:
            record.mounts = await self._volumes.plan(merged, host_config, creator.scope)
            await self._storage.create(container)
            await self._repository.save(container)
        except BaseException:
            self._registry.release_name(name)
            with trio.CancelScope(shield=True):
                await self._storage.discard(container)
                await self._volumes.discard_anonymous(container)
            raise
        self._registry.add(container)
        self._repository.emit(container, "create")
        return container

    def _free_name(self) -> str:
        names = (random_name(attempt) for attempt in range(_RANDOM_NAMES))
        return next((name for name in names if not self._registry.has_name(name)), random_name(_RANDOM_NAMES))

    def _check_link(self, name: str) -> None:
        try:
            self._registry.get(name)
        except NotFound as error:
            # 400, as moby: for 404 the client would pull the image.
            raise InvalidParameter(f"could not get container for {name}: {error}") from error
