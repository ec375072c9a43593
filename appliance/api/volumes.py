"""Routes under /volumes."""

from typing import Any

import msgspec

from appliance.api.backend import VolumeBackend
from appliance.api.fields import read_struct
from appliance.api.filters import any_of, boolean_filter, matches_label_filters, matches_pattern, parse_filters
from appliance.api.router import Route
from appliance.container.times import rfc3339
from appliance.errors import InvalidParameter, NotFound
from appliance.http import Reply, Request
from appliance.volume.store import VolumeRecord

_FILTERS = frozenset(("dangling", "driver", "label", "label!", "name"))


def volume_shape(record: VolumeRecord, mount_point: str) -> dict[str, Any]:
    """Volume, as `docker volume inspect` shows it."""
    return {
        "CreatedAt": rfc3339(record.created)[:19] + "Z",
        "Driver": "local",
        "Labels": record.labels or ({"com.docker.volume.anonymous": ""} if record.anonymous else None),
        "Mountpoint": mount_point,
        "Name": record.name,
        "Options": record.options or None,
        "Scope": "local",
    }


class VolumeCreateRequest(msgspec.Struct, kw_only=True, rename="pascal"):
    """`driver` empty means local. An empty `name` means an anonymous volume."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: Any = None


class VolumeRoutes:
    """Volumes of the driver `local`, the only driver."""

    def __init__(self, volumes: VolumeBackend) -> None:
        self._volumes = volumes

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {
            ("GET", "/volumes"): self.list_all,
            ("POST", "/volumes/create"): self.create,
            ("POST", "/volumes/prune"): self.prune,
            ("GET", "/volumes/{name}"): self.inspect,
            ("DELETE", "/volumes/{name}"): self.remove,
        }

    def _shape(self, record: VolumeRecord) -> dict[str, Any]:
        return volume_shape(record, self._volumes.mount_point(record))

    async def list_all(self, request: Request, reply: Reply) -> None:
        """GET /volumes."""
        filters = parse_filters(request.text("filters"), _FILTERS)
        dangling = boolean_filter(filters, "dangling")

        def keep(record: VolumeRecord) -> bool:
            return (
                (not filters.get("name") or matches_pattern(filters["name"], record.name))
                and any_of(filters.get("driver", []), lambda driver: driver == "local")
                and matches_label_filters(filters, record.labels)
                and dangling in (None, not self._volumes.users(record.name))
            )

        found = sorted((record for record in self._volumes.all() if keep(record)), key=lambda record: record.name)
        await reply.json(200, {"Volumes": [self._shape(record) for record in found], "Warnings": None})

    async def inspect(self, request: Request, reply: Reply) -> None:
        """GET /volumes/{name}."""
        await reply.json(200, self._shape(self._volumes.get(request.path["name"])))

    async def create(self, request: Request, reply: Reply) -> None:
        """POST /volumes/create."""
        wanted = await read_struct(request, VolumeCreateRequest, "a volume is an object", optional=True)
        name, driver = wanted.name, wanted.driver or "local"
        if wanted.cluster_volume_spec:
            raise InvalidParameter("ClusterVolumeSpec is not supported: it is for swarms")
        if driver != "local":
            raise NotFound(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')
        record = await self._volumes.create(name, wanted.labels or {}, wanted.driver_opts or {})
        await reply.json(201, self._shape(record))

    async def remove(self, request: Request, reply: Reply) -> None:
        """DELETE /volumes/{name}."""
        await self._volumes.remove(request.path["name"], force=request.flag("force"))
        await reply.empty(204)

    async def prune(self, request: Request, reply: Reply) -> None:
        """POST /volumes/prune."""
        filters = parse_filters(request.text("filters"), frozenset(("label", "label!", "all")))
        everything = request.version < (1, 42) or (filters.get("all") or ["false"])[0] in ("1", "true", "True")

        def wanted(record: VolumeRecord) -> bool:
            return (everything or record.anonymous) and matches_label_filters(filters, record.labels)

        removed, space = await self._volumes.prune(wanted)
        await reply.json(200, {"VolumesDeleted": removed, "SpaceReclaimed": space})
