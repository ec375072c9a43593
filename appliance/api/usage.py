"""GET /system/df: disk usage."""

import time
from collections import Counter
from typing import Any

from appliance.api.backend import BuildCacheBackend, ContainerRegistry, NetworkBackend, StorageBackend, VolumeBackend
from appliance.api.image_names import ImageNames
from appliance.api.image_shapes import list_image
from appliance.api.router import Route
from appliance.api.shapes import list_container
from appliance.api.volumes import volume_shape
from appliance.buildkit.usage import CacheRecord
from appliance.container.times import ZERO, rfc3339
from appliance.errors import InvalidParameter
from appliance.http import Reply, Request
from appliance.image.store import ImageStore

_KINDS = ("container", "image", "volume", "build-cache")


class UsageRoutes:
    """The route for disk usage. `build_cache` is None where nothing is known of a cache."""

    def __init__(
        self,
        containers: ContainerRegistry,
        storage: StorageBackend,
        networks: NetworkBackend,
        images: ImageStore,
        volumes: VolumeBackend,
        build_cache: BuildCacheBackend | None = None,
    ) -> None:
        self._storage = storage
        self._containers = containers
        self._networks = networks
        self._images = images
        self._volumes = volumes
        self._build_cache = build_cache

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {("GET", "/system/df"): self.df}

    async def df(self, request: Request, reply: Reply) -> None:
        """GET /system/df."""
        wanted = request.query.get("type") or list(_KINDS)
        for kind in wanted:
            if kind not in _KINDS:
                raise InvalidParameter(f"unknown object type: {kind}")
        shape: dict[str, Any] = {}
        if "image" in wanted:
            shape |= {"LayersSize": await self._images.layers_used(), "Images": self._image_rows(request)}
        if "container" in wanted:
            shape["Containers"] = await self._container_rows(request)
        if "volume" in wanted:
            shape["Volumes"] = [
                {
                    **volume_shape(record, self._volumes.mount_point(record)),
                    "UsageData": {
                        "Size": await self._volumes.used(record),
                        "RefCount": len(self._volumes.users(record.name)),
                    },
                }
                for record in self._volumes.all()
                if not record.role
            ]
        if "build-cache" in wanted:
            records = await self._build_cache.cache_records() if self._build_cache is not None else []
            shape["BuildCache"] = [_cache_row(record, request) for record in records]
            if request.version < (1, 52):
                # Since API 1.42 moby leaves the sum to the client.
                shape["BuilderSize"] = sum(one.size for one in records) if request.version < (1, 42) else 0
        await reply.json(200, shape)

    def _image_rows(self, request: Request) -> list[dict[str, Any]]:
        users = Counter(container.record.image_id for container in self._containers.all())
        shared = self._images.shared_sizes()
        return [
            {
                **list_image(
                    record, self._images.config(record.id), self._images.size(record), users[record.id], request.version
                ),
                "SharedSize": shared[record.id],
            }
            for record in self._images.listed()
        ]

    async def _container_rows(self, request: Request) -> list[dict[str, Any]]:
        now = time.time_ns()
        names = ImageNames(self._images)
        rows = []
        containers = [container for container in self._containers.all() if not container.record.role]
        await self._storage.sync(container.id for container in containers)
        for container in containers:
            used = await self._storage.used(container.id)
            root = used + self._images.size(self._images.get(container.record.image_id))
            row = list_container(container, self._networks, request.version, now)
            rows.append({**row, "Image": names.shown(container.record), "SizeRw": used, "SizeRootFs": root})
        return rows


def _cache_row(record: CacheRecord, request: Request) -> dict[str, Any]:
    """A record of the build cache, as moby's build.CacheRecord."""
    row = {
        "ID": record.id,
        "Type": record.type,
        "Description": record.description,
        "InUse": record.in_use,
        "Shared": record.shared,
        "Size": record.size,
        "CreatedAt": rfc3339(record.created) if record.created else ZERO,
        "LastUsedAt": rfc3339(record.last_used) if record.last_used else None,
        "UsageCount": record.usage_count,
    }
    if record.parents and request.version >= (1, 42):
        # The space is moby's, and so what its clients look for.
        row[" Parents"] = list(record.parents)
    return row
