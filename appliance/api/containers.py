"""Routes under /containers: list, inspect, create, remove, prune."""

import time

import msgspec

from appliance.api.backend import (
    Container,
    ContainerRegistry,
    CreationBackend,
    ExecBackend,
    NetworkBackend,
    RemovalBackend,
    StorageBackend,
)
from appliance.api.config_checks import decode_config
from appliance.api.container_filters import container_filter, parse_container_filters
from appliance.api.endpoints import decode_endpoints
from appliance.api.fields import CONFIG, fold_names
from appliance.api.filters import parse_filters
from appliance.api.host_config_checks import decode_host_config
from appliance.api.image_names import ImageNames
from appliance.api.router import Route
from appliance.api.shapes import hide_env_values, host_config_shape, inspect_container, list_container
from appliance.api.sharing_checks import check_sharing
from appliance.container.lifecycle import Created, Exited
from appliance.container.merge import merge_ulimits
from appliance.errors import Conflict, InvalidParameter, NotFound
from appliance.http import Reply, Request
from appliance.image.platform import parse_platform
from appliance.image.store import ImageStore


class ContainerRoutes:
    def __init__(
        self,
        registry: ContainerRegistry,
        creation: CreationBackend,
        removal: RemovalBackend,
        storage: StorageBackend,
        execs: ExecBackend,
        networks: NetworkBackend,
        images: ImageStore,
    ) -> None:
        self._registry = registry
        self._creation = creation
        self._removal = removal
        self._storage = storage
        self._execs = execs
        self._networks = networks
        self._images = images

    def routes(self) -> dict[tuple[str, str], Route]:
        name = "/containers/{name}"
        return {
            ("GET", "/containers/json"): self.list_all,
            ("POST", "/containers/create"): self.create,
            ("GET", f"{name}/json"): self.inspect,
            ("POST", "/containers/prune"): self.prune,
            ("DELETE", name): self.remove,
        }

    # -- reading --------------------------------------------------------------------------------------------------

    async def list_all(self, request: Request, reply: Reply) -> None:
        filters = parse_container_filters(request)
        limit = request.number("limit") or 0
        everything = request.flag("all") or limit > 0 or bool(filters.values("status"))
        keep = await container_filter(filters, self._registry, self._images) if filters else None
        found = [
            c
            for c in self._registry.all()
            if (everything or c.running or c.restarting)
            and not c.removed
            and filters.shows(c.record.role)
            and (keep is None or keep(c))
        ]
        found.sort(key=lambda container: container.record.created, reverse=True)
        if limit > 0:
            found = found[:limit]
        if request.flag("size"):
            await self._storage.sync(container.id for container in found)
        now, version = time.time_ns(), request.version
        # Encoded one by one: a thousand shapes alive at once cost the garbage collector more than all the encoding.
        encode = msgspec.json.Encoder().encode
        names = ImageNames(self._images)
        shapes = [
            encode(
                list_container(one, self._networks, version, now)
                | {"Image": names.shown(one.record)}
                | (await self._sizes(one) if request.flag("size") else {})
            )
            for one in found
        ]
        await reply.raw(200, b"application/json", b"[" + b",".join(shapes) + b"]\n")

    async def inspect(self, request: Request, reply: Reply) -> None:
        container = self._registry.get(request.path["name"])
        shape = inspect_container(container, self._networks, request.version)
        if not request.principal.role.sees_env:
            hide_env_values(shape, "Config")
        # The daemon's ulimits of today, as in moby (getInspectData).
        host_config = merge_ulimits(container.record.host_config, self._creation.ulimits)
        shape["HostConfig"] = host_config_shape(host_config, request.version)
        shape["ExecIDs"] = self._execs.ids_of(container.id) or None
        if request.flag("size"):
            await self._storage.sync([container.id])
            shape |= await self._sizes(container)
        await reply.json(200, shape)

    async def _sizes(self, container: Container) -> dict[str, int]:
        used = await self._storage.used(container.id)
        return {"SizeRw": used, "SizeRootFs": used + self._images.size(self._images.get(container.record.image_id))}

    # -- changing -------------------------------------------------------------------------------------------------

    async def create(self, request: Request, reply: Reply) -> None:
        body = await request.json()
        if not isinstance(body, dict):
            raise InvalidParameter("config cannot be empty in order to create a container")
        fold_names(body, (*CONFIG, "HostConfig", "NetworkingConfig"))
        if not body.get("Image"):
            raise InvalidParameter(
                "no image specified: config cannot be empty in order to create a container"
                if not body
                else "invalid reference format"
            )
        host = body.pop("HostConfig", None) or {}
        networking = body.pop("NetworkingConfig", None) or {}
        if not isinstance(host, dict) or not isinstance(networking, dict):
            raise InvalidParameter("invalid JSON: HostConfig is not an object")
        fold_names(networking, ("EndpointsConfig",))
        endpoints, endpoint_warnings = decode_endpoints(networking.get("EndpointsConfig") or {})
        if len(endpoints) > 1 and request.version < (1, 44):
            raise InvalidParameter(
                f"Container cannot be connected to network endpoints: {', '.join(sorted(endpoints))}"
            )
        config, config_warnings = decode_config(body)
        host_config, host_warnings = decode_host_config(host, await self._creation.cpus())
        check_sharing(config, host_config, endpoints)
        warnings = config_warnings + host_warnings + endpoint_warnings
        warnings += self._creation.check_platform(config.image, parse_platform(request.text("platform")))
        container = await self._creation.create(request.text("name"), config, host_config, endpoints, request.principal)
        await reply.json(201, {"Id": container.id, "Warnings": warnings})

    async def remove(self, request: Request, reply: Reply) -> None:
        if request.flag("link"):
            raise InvalidParameter(f"a link is named by its container and its alias: {request.path['name']}/ALIAS")
        volumes = request.flag("v")
        await self._removal.remove(request.path["name"], force=request.flag("force"), volumes=volumes)
        await reply.empty(204)

    async def prune(self, request: Request, reply: Reply) -> None:
        filters = parse_filters(request.text("filters"), "POST /containers/prune")
        until = filters.until()
        # As in moby, not beside a prune of networks either.
        with self._networks.pruning.running():
            deleted: list[str] = []
            space = 0
            for container in self._registry.all():
                if (
                    container.record.role
                    or container.restarting
                    or not isinstance(container.state, Created | Exited)
                    or (until is not None and container.record.created > until)
                    or not filters.labels(container.record.config.labels or {})
                ):
                    continue
                try:
                    size = await self._storage.used(container.id)
                    await self._removal.remove(container.id, force=False)
                except (Conflict, NotFound, OSError):
                    continue  # it was started or removed meanwhile
                deleted.append(container.id)
                space += size
            self._removal.pruned(space)
        await reply.json(200, {"ContainersDeleted": deleted or None, "SpaceReclaimed": space})
