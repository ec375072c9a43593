"""Routes for the images of this host: list, inspect, tag, remove, prune, commit. `image_transfers.py` moves images in and out."""

import fnmatch
import time
from collections import Counter
from collections.abc import Callable

from appliance.api.backend import CommitBackend, ContainerRegistry, EventBackend
from appliance.api.config_checks import decode_config
from appliance.api.filters import Filters, boolean_filter, matches_label_filters, parse_filters
from appliance.api.image_shapes import created_of, inspect_image, list_image, seconds_of
from appliance.api.router import Route
from appliance.api.times import parse_time
from appliance.container.commit import Commit
from appliance.container.event import Event
from appliance.errors import Conflict, InvalidParameter, NotFound
from appliance.http import Reply, Request
from appliance.image.reference import parse_reference
from appliance.image.store import ImageRecord, ImageStore, familiar_names

_FILTERS = frozenset(("dangling", "label", "label!", "before", "since", "reference", "until"))


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
        filters = parse_filters(request.text("filters"), _FILTERS)
        if request.text("filter"):
            filters.setdefault("reference", []).append(request.text("filter"))
        users = Counter(container.record.image_id for container in self._containers.all())
        shared = self._store.shared_sizes() if request.flag("shared-size") else {}
        keep = self._filter(filters)
        shapes = []
        for record in self._store.all():
            if keep(record):
                shape = list_image(
                    record, self._store.config(record.id), self._store.size(record), users[record.id], request.version
                )
                shape["SharedSize"] = shared.get(record.id, -1)
                if patterns := filters.get("reference"):
                    # Docker shows only the names that match.
                    for key in ("RepoTags", "RepoDigests"):
                        shape[key] = [name for name in shape[key] if _matches(name, patterns)]
                shapes.append(shape)
        shapes.sort(key=lambda shape: shape["Created"], reverse=True)
        await reply.json(200, shapes)

    def _filter(self, filters: Filters) -> Callable[[ImageRecord], bool]:
        """Whether an image passes the filters. InvalidParameter or NotFound for values that are wrong."""
        dangling = boolean_filter(filters, "dangling")
        before = [created_of(self._store.config(self._store.get(ref).id)) for ref in filters.get("before", ())]
        since = [created_of(self._store.config(self._store.get(ref).id)) for ref in filters.get("since", ())]
        until = [parse_time(text, now=time.time_ns()) or 0 for text in filters.get("until", ())]

        patterns = filters.get("reference", [])

        def keep(record: ImageRecord) -> bool:
            config = self._store.config(record.id)
            labels = config.config.labels or {}
            created = created_of(config)
            names = familiar_names(record.references)
            return (
                dangling in (None, not record.references)
                and matches_label_filters(filters, labels)
                and all(created < at for at in before)
                and all(created > at for at in since)
                and all(created * 1_000_000_000 < at for at in until)
                and (not patterns or any(_matches(one, patterns) for one in (*names, *familiar_names(record.digests))))
            )

        return keep

    async def inspect(self, request: Request, reply: Reply) -> None:
        """GET /images/{name}/json."""
        record = self._store.get(request.path["name"])
        config = self._store.config(record.id)
        await reply.json(200, inspect_image(record, config, self._store.size(record), request.version))

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
        if rows:
            rows[0] |= {"Id": record.id, "Tags": familiar_names(record.references) or None}
        await reply.json(200, rows)

    # -- changing -------------------------------------------------------------------------------------------------

    async def tag(self, request: Request, reply: Reply) -> None:
        """POST /images/{name}/tag."""
        record = self._store.get(request.path["name"])
        repository, tag = request.text("repo"), request.text("tag")
        reference = parse_reference(f"{repository}:{tag}" if tag else repository).with_default_tag()
        if reference.digest:
            raise InvalidParameter("refusing to create a tag with a digest reference")
        await self._store.tag(record, reference, time.time())
        self._emit("tag", record.id, str(reference))
        await reply.empty(201)

    async def remove(self, request: Request, reply: Reply) -> None:
        """DELETE /images/{name}."""
        name = request.path["name"]
        done = await self._store.remove(name, self._containers.user_of_image, force=request.flag("force"))
        for item in done:
            self._emit("delete" if "Deleted" in item else "untag", item.get("Deleted") or item["Untagged"], name)
        await reply.json(200, done)

    async def prune(self, request: Request, reply: Reply) -> None:
        """POST /images/prune."""
        filters = parse_filters(request.text("filters"), frozenset(("dangling", "label", "label!", "until")))
        only_dangling = (filters.pop("dangling", None) or ["true"])[0] in ("1", "true")
        keep = self._filter(filters)
        deleted: list[dict[str, str]] = []
        space = 0
        for record in self._store.all():
            if (only_dangling and record.references) or not keep(record):
                continue
            if self._containers.user_of_image(record.id) is not None:
                continue
            sizes = {diff_id: self._store.layer_size(diff_id) for diff_id in self._store.config(record.id).diff_ids}
            try:
                done = await self._store.remove(record.id, self._containers.user_of_image, force=True)
            except (Conflict, NotFound):
                continue  # a container uses it now, or another client has removed it
            for item in done:
                space += sizes.get(item.get("Deleted", ""), 0)
                self._emit(
                    "delete" if "Deleted" in item else "untag", item.get("Deleted") or item["Untagged"], record.id
                )
            deleted += done
        self._events.publish(Event("image", "prune", "", {"reclaimed": str(space)}))
        await reply.json(200, {"ImagesDeleted": deleted or None, "SpaceReclaimed": space})

    async def commit(self, request: Request, reply: Reply) -> None:
        """POST /commit: an image from the changes of a container."""
        body = await request.json() or {}
        if not isinstance(body, dict):
            raise InvalidParameter("invalid JSON: a configuration is an object")
        config, _ = decode_config(body)
        repository, tag = request.text("repo"), request.text("tag")
        name = f"{repository}:{tag}" if repository and tag else repository
        pause = request.flag("pause", request.version >= (1, 13))
        wanted = Commit(
            name, request.text("comment"), request.text("author"), pause, request.query.get("changes", []), config
        )
        record = await self._commits.commit(request.text("container"), wanted)
        if name:
            self._emit("tag", record.id, str(parse_reference(name).with_default_tag()))
        await reply.json(201, {"Id": record.id})


def _matches(name: str, patterns: list[str]) -> bool:
    """Whether a familiar name matches a pattern, with or without its tag or digest (moby: path.Match)."""
    plain = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
    return any(fnmatch.fnmatchcase(one, pattern) for one in (name, plain) for pattern in patterns)
