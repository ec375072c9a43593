"""The containers of a scope: finding them, creating them, their execs, checkpoints and commits."""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace

from appliance.api.backend import (
    CheckpointBackend,
    CommitBackend,
    Container,
    ContainerRegistry,
    CreationBackend,
    Exec,
    ExecBackend,
)
from appliance.api.scopes.host_config import check_host_config
from appliance.api.scopes.networks import ScopedNetworks
from appliance.container.commit import Commit
from appliance.container.config import ContainerConfig
from appliance.container.container_record import find_container
from appliance.container.endpoint_settings import EndpointSettings
from appliance.container.exec_config import ExecConfig
from appliance.container.host_config import HostConfig, Ulimit
from appliance.container.links import parse_link
from appliance.container.mounts import MountRecord
from appliance.container.sharing import CONTAINER, target_of
from appliance.errors import Forbidden, InvalidParameter, NotFound
from appliance.image.platform import Platform
from appliance.image.store import ImageRecord
from appliance.roles import LOCAL, Principal


class ScopedContainers:
    """The containers of a scope, as a ContainerRegistry."""

    def __init__(self, backend: ContainerRegistry, scope: str) -> None:
        self._backend = backend
        self._scope = scope

    def all(self) -> Sequence[Container]:
        return [container for container in self._backend.all() if container.record.owner == self._scope]

    def get(self, ref: str) -> Container:
        """See find_container. Prefixes are unique in the scope."""
        return find_container(self.all(), ref)

    def user_of_image(self, image_id: str, *, running: bool) -> str | None:
        users = (c for c in self.all() if c.record.image_id == image_id)
        return next((c.id[:12] for c in users if running == (c.running or c.restarting)), None)

    def pinned(self, ref: str) -> str:
        """A reference that means the same container for a client that sees all: prefixes of ids become ids."""
        container = self.get(ref)
        return ref if ref.removeprefix("/") in (container.id, container.record.name) else container.id


class ScopedCreation:
    """Creates containers in a scope: what they refer to has to be in the scope, too."""

    def __init__(self, backend: CreationBackend, containers: ScopedContainers, networks: ScopedNetworks) -> None:
        self._backend = backend
        self._containers = containers
        self._networks = networks

    @property
    def ulimits(self) -> Sequence[Ulimit]:
        return self._backend.ulimits

    async def cpus(self) -> int:
        return await self._backend.cpus()

    def is_api_mount(self, mount: MountRecord) -> bool:
        return self._backend.is_api_mount(mount)

    def check_platform(self, image: str, platform: Platform) -> list[str]:
        return self._backend.check_platform(image, platform)

    async def create(
        self,
        name: str,
        config: ContainerConfig,
        host_config: HostConfig,
        networks: dict[str, EndpointSettings],
        creator: Principal = LOCAL,
    ) -> Container:
        """See CreationBackend. Forbidden names an option that reaches beyond the container's own VM.

        InvalidParameter for a reference to what is not in the scope; as moby, not NotFound, for which clients pull the image.
        """
        check_host_config(host_config, self._backend.is_api_mount)
        try:
            host_config = self._pin(host_config)
            networks = {self._networks.get(ref).id: settings for ref, settings in networks.items()}
        except NotFound as error:
            raise InvalidParameter(str(error)) from error
        return await self._backend.create(name, config, host_config, networks, creator)

    def _pin(self, given: HostConfig) -> HostConfig:
        host_config = copy(given)
        host_config.volumes_from = self._pin_all(given.volumes_from)
        if given.links is not None:
            host_config.links = [self._pin_link(text) for text in given.links]
        host_config.pid_mode = self._pin_other(given.pid_mode)
        host_config.ipc_mode = self._pin_other(given.ipc_mode)
        mode = given.network_mode or "default"
        if target_of(mode):
            host_config.network_mode = self._pin_other(mode)
        elif mode != "default":
            host_config.network_mode = self._networks.pinned(mode)
        return host_config

    def _pin_all(self, texts: Iterable[str] | None) -> list[str] | None:
        """Elements of VolumesFrom: CONTAINER[:MODE]."""
        if texts is None:
            return None
        parts = (text.partition(":") for text in texts)
        return [f"{self._containers.pinned(ref)}{colon}{mode}" for ref, colon, mode in parts]

    def _pin_link(self, text: str) -> str:
        name, alias = parse_link(text)
        try:
            return f"{self._containers.pinned(name)}:{alias}"
        except NotFound as error:
            raise InvalidParameter(f"could not get container for {name}: {error}") from error

    def _pin_other(self, mode: str) -> str:
        """A mode of a namespace, such as container:NAME."""
        target = target_of(mode)
        return f"{CONTAINER}{self._containers.pinned(target)}" if target else mode


class ScopedExecs:
    """The execs in the containers of a scope."""

    def __init__(self, backend: ExecBackend, containers: ScopedContainers, scope: str) -> None:
        self._backend = backend
        self._containers = containers
        self._scope = scope

    def ids_of(self, ref: str) -> list[str]:
        return self._backend.ids_of(self._containers.get(ref).id)

    async def create(self, ref: str, config: ExecConfig) -> Exec:
        if config.privileged:
            raise Forbidden("authorization denied: a scoped client may not use the option privileged of an exec")
        return await self._backend.create(self._containers.get(ref).id, config)

    def get(self, exec_id: str) -> Exec:
        try:
            found = self._backend.get(exec_id)
        except NotFound:
            found = None
        if found is None or found.container.record.owner != self._scope:
            raise NotFound(f"No such exec instance: {exec_id}")
        return found

    async def start(self, exec_id: str) -> None:
        await self._backend.start(self.get(exec_id).id)

    async def resize(self, exec_id: str, rows: int, columns: int) -> None:
        await self._backend.resize(self.get(exec_id).id, rows, columns)


class ScopedCheckpoints:
    """The checkpoints of the containers of a scope, which lie where vchd stores them, not in a folder that a client names."""

    def __init__(self, backend: CheckpointBackend, containers: ScopedContainers) -> None:
        self._backend = backend
        self._containers = containers

    async def list(self, ref: str, directory: str) -> list[str]:
        return await self._backend.list(self._own(ref, directory), "")

    async def create(self, ref: str, checkpoint_id: str, directory: str, *, leave_running: bool) -> None:
        await self._backend.create(self._own(ref, directory), checkpoint_id, "", leave_running=leave_running)

    async def remove(self, ref: str, checkpoint_id: str, directory: str) -> None:
        await self._backend.remove(self._own(ref, directory), checkpoint_id, "")

    def _own(self, ref: str, directory: str) -> str:
        if directory:
            raise Forbidden("authorization denied: a scoped client may not use the option CheckpointDir")
        return self._containers.get(ref).id


class ScopedCommits:
    """Commits of the containers of a scope. They may not take a name from another image."""

    def __init__(self, backend: CommitBackend, containers: ScopedContainers) -> None:
        self._backend = backend
        self._containers = containers

    async def commit(self, ref: str, wanted: Commit) -> ImageRecord:
        return await self._backend.commit(self._containers.get(ref).id, replace(wanted, only_new_name=True))
