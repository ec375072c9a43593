"""Routes under /volumes."""

from typing import Any

import msgspec

from appliance.api.backend import VolumeBackend
from appliance.api.fields import read_struct
from appliance.api.filters import Filters, parse_filters
from appliance.api.patterns import matching_names
from appliance.api.router import Route
from appliance.container.times import rfc3339
from appliance.errors import InvalidParameter, NotFound
from appliance.http import Reply, Request
from appliance.volume.store import VolumeRecord

# What Go takes for a boolean.
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


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
        filters = parse_filters(request.text("filters"), "GET /volumes")
        dangling = filters.boolean("dangling", False) if "dangling" in filters else None
        names = await matching_names(filters.values("name"), (record.name for record in self._volumes.all()))

        def keep(record: VolumeRecord) -> bool:
            return (
                record.name in names
                and filters.shows(record.role)
                and filters.exact("driver", "local")
                and filters.labels(record.labels)
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
        filters = parse_filters(request.text("filters"), "POST /volumes/prune")
        if request.version < (1, 42):
            filters.add("all", "true")
        everything = _all_volumes(filters)

        def wanted(record: VolumeRecord) -> bool:
            # As Docker, never a volume with options.
            return (everything or record.anonymous) and not record.options and filters.labels(record.labels)

        removed, space = await self._volumes.prune(wanted)
        await reply.json(200, {"VolumesDeleted": removed, "SpaceReclaimed": space})


def _all_volumes(filters: Filters) -> bool:
    """The filter `all` of a prune (moby daemon/volume/service withPrune). InvalidParameter for a value that is not a boolean."""
    values = filters.values("all")
    if len(values) > 1:
        raise InvalidParameter(f"invalid filter 'all=[{' '.join(values)}]': only one value is expected")
    if values and values[0] not in (*_TRUE, *_FALSE):
        raise InvalidParameter(f"invalid filter 'all': strconv.ParseBool: parsing \"{values[0]}\": invalid syntax")
    return bool(values) and values[0] in _TRUE
