"""The volumes of a scope."""

from collections.abc import Callable

from appliance.api.backend import ContainerRegistry, VolumeBackend
from appliance.api.scopes.host_config import check_volume_options
from appliance.errors import Conflict, NotFound
from appliance.volume.store import VolumeRecord


class ScopedVolumes:
    """The volumes of a scope, as a VolumeBackend."""

    def __init__(self, backend: VolumeBackend, containers: ContainerRegistry, scope: str) -> None:
        self._backend = backend
        self._containers = containers
        self._scope = scope

    def all(self) -> list[VolumeRecord]:
        return [record for record in self._backend.all() if record.owner == self._scope]

    def get(self, name: str) -> VolumeRecord:
        record = next((one for one in self.all() if one.name == name), None)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        return record

    def users(self, name: str) -> list[str]:
        own = {container.id for container in self._containers.all()}
        return [container_id for container_id in self._backend.users(name) if container_id in own]

    def mount_point(self, record: VolumeRecord) -> str:
        return self._backend.mount_point(record)

    async def used(self, record: VolumeRecord) -> int:
        return await self._backend.used(record)

    async def create(
        self, name: str, labels: dict[str, str], options: dict[str, str], *, owner: str = ""
    ) -> VolumeRecord:
        check_volume_options(options)
        return await self._backend.create(name, labels, options, owner=self._scope)

    async def remove(self, name: str, *, force: bool = False) -> None:
        """See VolumeBackend. Conflict names the containers of the scope alone."""
        try:
            self.get(name)
        except NotFound:
            if force:
                return
            raise
        if len(self._backend.users(name)) > len(self.users(name)):
            raise Conflict(f"remove {name}: volume is in use")
        await self._backend.remove(name, force=force)

    async def prune(self, wanted: Callable[[VolumeRecord], bool]) -> tuple[list[str], int]:
        return await self._backend.prune(lambda record: record.owner == self._scope and wanted(record))
