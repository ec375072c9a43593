"""The builder's container: an ordinary container of vchd's own, with a disk for BuildKit's cache, on a network of its own."""

import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass

import trio

from appliance.buildkit.config import ENTRYPOINT, FOLDER
from appliance.buildkit.door_names import DOOR_HOST
from appliance.config import BuilderConfig
from appliance.container.config import ContainerConfig
from appliance.container.daemon_objects import BUILDER, ROLE_LABEL
from appliance.container.host_config import HostConfig, LogConfig
from appliance.container.lifecycle import Running, Starting
from appliance.engine.containers.archive import Archive
from appliance.engine.containers.creation import ContainerCreation
from appliance.engine.containers.removal import ContainerRemoval
from appliance.engine.containers.service import ContainerService
from appliance.engine.containers.signals import Signals
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.networking.networks import Networks
from appliance.engine.transfers import Transfers
from appliance.engine.volumes import Volumes
from appliance.errors import Conflict, NotFound, NotModified, Unavailable, VchError
from appliance.image.load import load
from appliance.image.platform import OURS
from appliance.image.progress import Progress
from appliance.image.reference import parse_reference
from appliance.image.store import ImageStore
from appliance.network.network_record import NetworkRecord
from appliance.registry import Credentials

log = logging.getLogger(__name__)

# The name of the container, of its network, and of its first volume.
NAME = "vch-builder"
_CACHE_FOLDER = "/var/lib/buildkit"
_LABELS = {ROLE_LABEL: BUILDER}
# All processes of the container. Those of RUNs have a smaller limit; a RUN that leaves its cgroup meets this one.
_MOST_PIDS = 8192
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ContainerServices:
    """What the engine does with containers."""

    registry: ContainerRegistry
    creation: ContainerCreation
    removal: ContainerRemoval
    lifecycle: ContainerService
    signals: Signals
    archive: Archive


class BuilderContainer:
    """Makes, starts and stops the container. It has nothing of earlier runs but the volume of the cache."""

    def __init__(
        self,
        settings: BuilderConfig,
        services: ContainerServices,
        networks: Networks,
        volumes: Volumes,
        images: ImageStore,
        transfers: Transfers,
    ) -> None:
        self._settings = settings
        self._services = services
        self._networks = networks
        self._volumes = volumes
        self._images = images
        self._transfers = transfers

    def find(self) -> Container | None:
        """The container, running or not; None when there is none."""
        return next((one for one in self._services.registry.all() if one.record.role == BUILDER), None)

    async def door_place(self) -> tuple[str, str]:
        """The address at which the builder reaches vchd, and the interface by which it comes ("" for any). Makes the network."""
        if not self._networks.bridged:
            # The machine's own NAT leads its gateway to this host.
            return "127.0.0.1", ""
        network = await self._network()
        return next(pool.gateway for pool in network.pools if ":" not in pool.gateway), network.bridge

    @property
    def reachable(self) -> bool:
        """Whether this host has connections to the addresses of the builder."""
        return self._networks.bridged

    @staticmethod
    def address(container: Container) -> str:
        """The address of the running container on the builder's network; "" when the container is not on that network."""
        endpoints = (one for one in container.endpoints if one.network.role == BUILDER)
        return next((one.ipv4.address for one in endpoints if one.ipv4 is not None), "")

    def gateway(self) -> str:
        """The address of the builder's gateway, which RUNs know as host-gateway; "" while there is no network for it."""
        role = BUILDER if self._networks.bridged else ""
        wanted = (
            record for record in self._networks.all() if record.role == role and (role or record.name == "bridge")
        )
        pools = (pool for record in wanted for pool in record.pools if ":" not in pool.gateway)
        return next((pool.gateway for pool in pools), "")

    async def _network(self) -> NetworkRecord:
        found = next((record for record in self._networks.all() if record.role == BUILDER), None)
        if found is not None:
            return found
        name = _free(NAME, {record.name for record in self._networks.all()})
        wanted = NetworkRecord("", name, "bridge", 0, labels=dict(_LABELS), role=BUILDER)
        return await self._networks.create(wanted, unique=True)

    async def make(self, volume: str) -> Container:
        """A new container with this volume, in place of that of an earlier run. Unavailable when there is no image for it."""
        await self._provide_image()
        await self.remove()
        name = _free(NAME, {one.record.name for one in self._services.registry.all()})
        mode = (await self._network()).id if self._networks.bridged else "default"
        disk = str(self._settings.builder_disk)
        if not self.has_volume(volume):
            await self._volumes.create(volume, dict(_LABELS), {"size": disk}, role=BUILDER)
        config = ContainerConfig(
            # The worker's label in `buildx inspect` is the host name.
            hostname=NAME,
            image=self._settings.builder_image,
            entrypoint=list(ENTRYPOINT),
            cmd=[],
            labels=dict(_LABELS),
        )
        host_config = HostConfig(
            privileged=True,
            binds=[f"{volume}:{_CACHE_FOLDER}"],
            tmpfs={FOLDER: "mode=0700,size=1m"},
            network_mode=mode,
            extra_hosts=[f"{DOOR_HOST}:host-gateway"],
            memory=(self._settings.builder_memory or 0) << 20,
            nano_cpus=(self._settings.builder_cpus or 0) * 1_000_000_000,
            pids_limit=_MOST_PIDS,
            oom_score_adj=-500,
            log_config=LogConfig("json-file", {"max-size": "5m", "max-file": "2"}),
        )
        return await self._services.creation.create(name, config, host_config, {}, role=BUILDER)

    def volume_name(self, current: str = "") -> str:
        """A name for the volume of the cache: the name of that in use, else a free name. `current` is not free."""
        records = self._volumes.all()
        if not current and (found := [record.name for record in records if record.role == BUILDER]):
            return found[0]
        return _free(NAME, {record.name for record in records} | {current})

    def has_volume(self, name: str) -> bool:
        """Whether the volume of a cache exists: a client may remove it while there is no container."""
        return any(record.name == name and record.role == BUILDER for record in self._volumes.all())

    async def _provide_image(self) -> None:
        name = self._settings.builder_image
        with suppress(NotFound):
            self._images.get(name)
            return
        if await self._load_image(name):
            return
        log.info("pulling the builder image %s", name)
        try:
            await self._transfers.pull(parse_reference(name).with_default_tag(), Credentials(), OURS, _unseen)
        except VchError as error:
            raise Unavailable(
                f"the builder image {name} is not here, and cannot be pulled: {error}. "
                'Load it with "docker load" (make builder-image), or name another with --builder-image'
            ) from error

    async def _load_image(self, name: str) -> bool:
        """Load the archive with the builder's image, if there is one. Returns whether the image is here now."""
        archive = self._settings.builder_archive
        if not await trio.Path(archive).is_file():
            return False
        log.info("loading the builder image %s from %s", name, archive)
        try:
            async with aclosing(load(self._images, archive)) as images:
                async for _ in images:
                    pass
            self._images.get(name)
        except (VchError, OSError) as error:
            log.warning("the builder image %s cannot be loaded from %s: %s", name, archive, error)
            return False
        return True

    async def start(self, container: Container) -> None:
        """Start the container, which then waits for `deliver`."""
        await self._services.lifecycle.start(container.id)

    async def deliver(self, container: Container, archive: bytes) -> None:
        """Unpack a tar into the folder of the container that no RUN sees."""

        async def pieces() -> AsyncGenerator[bytes, None]:
            yield archive

        await self._services.archive.write(
            container.id, FOLDER, pieces(), no_overwrite_dir_non_dir=False, copy_owner=False
        )

    async def stop(self) -> None:
        """Stop the container, if it runs: BuildKit ends its builds. The end of its machine takes every process with it."""
        container = self.find()
        if container is not None and isinstance(container.state, Running | Starting):
            with suppress(NotModified, Conflict, NotFound):
                await self._services.signals.stop(container.id, signal="", timeout=_STOP_SECONDS)

    async def remove(self) -> None:
        """Remove the container, and leave the volume of the cache."""
        container = self.find()
        if container is not None:
            with suppress(NotFound):
                await self._services.removal.remove(container.id, force=True)


def _free(name: str, taken: set[str]) -> str:
    """The name, with random digits behind it when it is taken: a client may have an object of this name."""
    return name if name not in taken else f"{name}-{secrets.token_hex(4)}"


async def _unseen(progress: Progress) -> None:
    """Nobody watches the pull of the builder's image."""
