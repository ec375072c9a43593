"""Routes for the images of this host: list, inspect, tag, remove, prune, commit. `image_transfers.py` moves images in and out."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.api.backend import CommitBackend, ContainerRegistry, EventBackend
from appliance.api.config_checks import decode_config
from appliance.api.filters import parse_filters
from appliance.api.image_filters import image_filter, parse_image_filters
from appliance.api.image_shapes import inspect_image, list_image, seconds_of
from appliance.api.router import Route
from appliance.api.shapes import hide_env_values
from appliance.container.commit import Commit
from appliance.container.config import ContainerConfig
from appliance.container.event import Event
from appliance.container.prune_guard import PruneGuard
from appliance.errors import Conflict, InvalidParameter, NotFound
from appliance.http import Reply, Request
from appliance.image.reference import familiar_names, tag_reference
from appliance.image.store import ImageRecord, ImageStore


class ImageRoutes:
    def __init__(
        self,
        store: ImageStore,
        containers: ContainerRegistry,
        commits: CommitBackend,
        events: EventBackend,
    ) -> None:
        self._store = store
        self._containers = containers
        self._commits = commits
        self._events = events
        self.pruning = PruneGuard()

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {
            ("GET", "/images/json"): self.list_all,
            ("POST", "/images/prune"): self.prune,
            ("GET", "/images/{name:.*}/json"): self.inspect,
            ("GET", "/images/{name:.*}/history"): self.history,
            ("POST", "/images/{name:.*}/tag"): self.tag,
            ("DELETE", "/images/{name:.*}"): self.remove,
            ("POST", "/commit"): self.commit,
        }

    def _emit(self, action: str, image_id: str, name: str) -> None:
        self._events.publish(Event("image", action, image_id, {"name": name}))

    # -- reading --------------------------------------------------------------------------------------------------

    async def list_all(self, request: Request, reply: Reply) -> None:
        """GET /images/json."""
        selected = await image_filter(parse_image_filters(request), self._store)
        users = Counter(container.record.image_id for container in self._containers.all())
        shared = self._store.shared_sizes() if request.flag("shared-size") else {}
        shapes = []
        listed = self._store.all() if request.flag("all") else self._store.listed()
        for record in filter(None, map(selected.shown, listed)):
            shape = list_image(
                record, self._store.config(record.id), self._store.size(record), users[record.id], request.version
            )
            shapes.append(shape | {"SharedSize": shared.get(record.id, -1)})
        shapes.sort(key=lambda shape: shape["Created"], reverse=True)
        await reply.json(200, shapes)

    async def inspect(self, request: Request, reply: Reply) -> None:
        """GET /images/{name}/json."""
        record = self._store.get(request.path["name"])
        config = self._store.config(record.id)
        shape = inspect_image(record, config, self._store.size(record), request.version)
        if not request.principal.role.sees_env:
            hide_env_values(shape, "Config", "ContainerConfig")
        await reply.json(200, shape)

    async def history(self, request: Request, reply: Reply) -> None:
        """GET /images/{name}/history."""
        record = self._store.get(request.path["name"])
        sizes = list(record.sizes)
        rows = []
        for entry in self._store.config(record.id).history or ():
            size = 0 if entry.empty_layer or not sizes else sizes.pop(0)
            rows.append(
                {
                    "Id": "<missing>",
                    "Created": seconds_of(entry.created),
                    "CreatedBy": entry.created_by or "",
                    "Tags": None,
                    "Size": size,
                    "Comment": entry.comment or "",
                }
            )
        rows.reverse()
        # A commit adds one row, so that the rows below the first are those of the images it was committed from.
        for row, image in zip(rows, (record, *self._store.ancestors(record)), strict=False):
            row |= {"Id": image.id, "Tags": familiar_names(image.references) or None}
        await reply.json(200, rows)

    # -- changing -------------------------------------------------------------------------------------------------

    async def tag(self, request: Request, reply: Reply) -> None:
        """POST /images/{name}/tag."""
        record = self._store.get(request.path["name"])
        reference = tag_reference(request.text("repo"), request.text("tag"))
        await self._store.tag(record, reference, time.time())
        self._emit("tag", record.id, str(reference))
        await reply.empty(201)

    async def remove(self, request: Request, reply: Reply) -> None:
        """DELETE /images/{name}."""
        name = request.path["name"]
        with self._removal_events(self._store.get(name)) as done:
            done += await self._store.remove(
                name,
                self._containers.user_of_image,
                force=request.flag("force"),
                prune_parents=not request.flag("noprune"),
            )
        await reply.json(200, done)

    @contextmanager
    def _removal_events(self, record: ImageRecord) -> Iterator[list[dict[str, str]]]:
        """Emit what a removal of the image does: the list that the block fills with the results of ImageStore.remove."""
        images = {record.id, *(image.id for image in self._store.ancestors(record))}
        done: list[dict[str, str]] = []
        yield done
        for item in done:
            if "Untagged" in item:
                self._emit("untag", record.id, record.id)
            elif item["Deleted"] in images:
                self._emit("delete", item["Deleted"], item["Deleted"])

    async def prune(self, request: Request, reply: Reply) -> None:
        """POST /images/prune."""
        filters = parse_filters(request.text("filters"), "POST /images/prune")
        only_dangling = filters.boolean("dangling", True)
        filters.until()
        # Here `dangling=false` means all images without containers.
        selected = await image_filter(filters.without("dangling"), self._store)
        with self.pruning.running():
            deleted: list[dict[str, str]] = []
            space = 0
            for record in self._store.listed():
                if not self._store.has(record):
                    continue  # another client has removed it
                if (only_dangling and record.references) or not selected.keep(record):
                    continue
                if any(self._containers.user_of_image(record.id, running=running) for running in (True, False)):
                    continue
                sizes = {diff_id: self._store.layer_size(diff_id) for diff_id in self._store.config(record.id).diff_ids}
                with self._removal_events(record) as done:
                    for name in [*record.references, *record.digests] or [record.id]:
                        if name not in (*record.references, *record.digests, record.id):
                            continue  # a build or a pull has given it to another image
                        try:
                            done += await self._store.remove(name, self._containers.user_of_image, force=False)
                        except (Conflict, NotFound):
                            continue  # a container uses it now, or another client has removed it
                space += sum(sizes.get(item.get("Deleted", ""), 0) for item in done)
                deleted += done
            self._events.publish(Event("image", "prune", "", {"reclaimed": str(space)}))
        await reply.json(200, {"ImagesDeleted": deleted or None, "SpaceReclaimed": space})

    async def commit(self, request: Request, reply: Reply) -> None:
        """POST /commit: an image from the changes of a container."""
        body = await request.json() or {}
        if not isinstance(body, dict):
            raise InvalidParameter("invalid JSON: a configuration is an object")
        config, _ = decode_config(body)
        repository = request.text("repo")
        name = str(tag_reference(repository, request.text("tag"))) if repository else ""
        pause = request.flag("pause", request.version >= (1, 13))
        # Without a member that Docker knows, a body is as no body.
        wanted = Commit(
            name,
            request.text("comment"),
            request.text("author"),
            pause,
            request.query.get("changes", []),
            None if config == ContainerConfig() else config,
        )
        record = await self._commits.commit(request.text("container"), wanted)
        if name:
            self._emit("tag", record.id, name)
        await reply.json(201, {"Id": record.id})
