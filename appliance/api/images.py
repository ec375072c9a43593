"""Routes under /images, /distribution, /auth and /commit."""

import base64
import fnmatch
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import trio

from appliance.api.backend import CommitBackend, ContainerBackend, EventBackend, TransferBackend
from appliance.api.filters import labels_are_wanted, parse_filters, switch_of
from appliance.api.hostconfig import check_config
from appliance.api.router import Route
from appliance.api.shapes import created_of, inspect_image, list_image, seconds_of
from appliance.api.times import parse_time
from appliance.container.commit import Commit
from appliance.container.event import Event
from appliance.errors import Conflict, InvalidParameter, NotFound, VchError, one_by_itself
from appliance.http import Reply, Request
from appliance.image.imports import import_tar
from appliance.image.layer import received
from appliance.image.load import load
from appliance.image.platform import Platform, parse_platform
from appliance.image.progress import Progress, Report
from appliance.image.reference import DOCKER_HUB, Reference, parse_reference
from appliance.image.save import save
from appliance.image.store import ImageRecord, ImageStore, familiar_names
from appliance.registry import Credentials

_FILTERS = frozenset(("dangling", "label", "label!", "before", "since", "reference", "until"))
_SEARCH_FILTERS = frozenset(("is-official", "is-automated", "stars"))
_MOST_RESULTS = 100


class ImageRoutes:
    def __init__(
        self,
        store: ImageStore,
        containers: ContainerBackend,
        commits: CommitBackend,
        transfers: TransferBackend,
        events: EventBackend,
        scratch: Path,
    ) -> None:
        self._store = store
        self._containers = containers
        self._commits = commits
        self._transfers = transfers
        self._events = events
        self._scratch = scratch

    def routes(self) -> dict[tuple[str, str], Route]:
        return {
            ("GET", "/images/json"): self.list_all,
            ("GET", "/images/search"): self.search,
            ("GET", "/images/get"): self.save,
            ("POST", "/images/load"): self.load,
            ("POST", "/images/create"): self.create,
            ("POST", "/images/prune"): self.prune,
            ("GET", "/images/{name:.*}/json"): self.inspect,
            ("GET", "/images/{name:.*}/history"): self.history,
            ("GET", "/images/{name:.*}/get"): self.save,
            ("POST", "/images/{name:.*}/tag"): self.tag,
            ("POST", "/images/{name:.*}/push"): self.push,
            ("DELETE", "/images/{name:.*}"): self.remove,
            ("GET", "/distribution/{name:.*}/json"): self.distribution,
            ("POST", "/commit"): self.commit,
            ("POST", "/auth"): self.auth,
        }

    def _emit(self, action: str, image_id: str, name: str) -> None:
        self._events.publish(Event("image", action, image_id, {"name": name}))

    # -- reading --------------------------------------------------------------------------------------------------

    async def list_all(self, request: Request, reply: Reply) -> None:
        filters = parse_filters(request.text("filters"), _FILTERS)
        if request.text("filter"):
            filters.setdefault("reference", []).append(request.text("filter"))
        users = Counter(container.record.image_id for container in self._containers.all())
        shared = self._store.shared_sizes() if request.flag("shared-size") else {}
        keep = self._tests(filters)
        shapes = []
        for record in self._store.all():
            if keep(record):
                shape = list_image(
                    record, self._store.config(record.id), self._store.size(record), users[record.id], request.version
                )
                shape["SharedSize"] = shared.get(record.id, -1)
                if patterns := filters.get("reference"):
                    # Only under the names that were asked for.
                    for key in ("RepoTags", "RepoDigests"):
                        shape[key] = [name for name in shape[key] if _matches(name, patterns)]
                shapes.append(shape)
        shapes.sort(key=lambda shape: shape["Created"], reverse=True)
        await reply.json(200, shapes)

    def _tests(self, filters: dict[str, list[str]]) -> Any:
        dangling = switch_of(filters, "dangling")
        before = [created_of(self._store.config(self._store.get(ref).id)) for ref in filters.get("before", ())]
        since = [created_of(self._store.config(self._store.get(ref).id)) for ref in filters.get("since", ())]
        until = [parse_time(text, now=time.time_ns()) or 0 for text in filters.get("until", ())]

        patterns = filters.get("reference", [])

        def keep(record: ImageRecord) -> bool:
            config = self._store.config(record.id)
            labels = config.config.get("Labels") or {}
            created = created_of(config)
            names = familiar_names(record.references)
            return (
                dangling in (None, not record.references)
                and labels_are_wanted(filters, labels)
                and all(created < at for at in before)
                and all(created > at for at in since)
                and all(created * 1_000_000_000 < at for at in until)
                and (not patterns or any(_matches(one, patterns) for one in (*names, *familiar_names(record.digests))))
            )

        return keep

    async def inspect(self, request: Request, reply: Reply) -> None:
        record = self._store.get(request.path["name"])
        config = self._store.config(record.id)
        await reply.json(200, inspect_image(record, config, self._store.size(record), request.version))

    async def history(self, request: Request, reply: Reply) -> None:
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

    async def distribution(self, request: Request, reply: Reply) -> None:
        reference = parse_reference(request.path["name"]).with_default_tag()
        found = await self._transfers.distribution(reference, _credentials(request.headers.get("x-registry-auth", "")))
        await reply.json(200, found)

    async def search(self, request: Request, reply: Reply) -> None:
        filters = parse_filters(request.text("filters"), _SEARCH_FILTERS)
        limit = request.number("limit")
        limit = 25 if limit is None else limit
        if not 1 <= limit <= _MOST_RESULTS:
            raise InvalidParameter(f"limit {limit} is outside the range of [1, {_MOST_RESULTS}]")
        stars = max((int(text) if text.isdigit() else -1 for text in filters.get("stars", ["0"])), default=0)
        if stars < 0:
            raise InvalidParameter(f"invalid filter 'stars={filters['stars']}'")
        credentials = _credentials(request.headers.get("x-registry-auth", ""))
        rows = await self._transfers.search(request.text("term"), credentials, limit)
        official = filters.get("is-official", ["true", "false"])
        automated = filters.get("is-automated", ["true", "false"])
        found = [
            row
            for row in rows
            if (row.star_count or 0) >= stars
            and str(bool(row.is_official)).lower() in official
            and str(bool(row.is_automated)).lower() in automated
        ]
        await reply.json(200, found)

    async def save(self, request: Request, reply: Reply) -> None:
        """docker save: one image, or those of `names`."""
        names = [request.path["name"]] if "name" in request.path else request.query.get("names", [])
        if not names:
            raise InvalidParameter("no image to save")
        wanted: dict[str, tuple[ImageRecord, list[str]]] = {}
        for name in (part for text in names for part in text.split(",")):
            record = self._store.get(name)
            _, kept = wanted.setdefault(record.id, (record, []))
            for full in self._names_of(record, name):
                if full not in kept:
                    kept.append(full)
        async with aclosing(save(self._store, list(wanted.values()))) as pieces:
            await reply.start("application/x-tar")
            async for piece in pieces:
                await reply.write(piece)
        for record, _ in wanted.values():
            self._emit("save", record.id, record.id)

    @staticmethod
    def _names_of(record: ImageRecord, text: str) -> list[str]:
        """Under which names an image is saved that was called so: all tags of a repository, none for an id."""
        try:
            reference = parse_reference(text)
        except InvalidParameter:
            return []
        full = f"{reference.name}:{reference.with_default_tag().tag}"
        return [full] if full in record.references else []

    # -- changing -------------------------------------------------------------------------------------------------

    async def tag(self, request: Request, reply: Reply) -> None:
        record = self._store.get(request.path["name"])
        repository, tag = request.text("repo"), request.text("tag")
        reference = parse_reference(f"{repository}:{tag}" if tag else repository).with_default_tag()
        if reference.digest:
            raise InvalidParameter("refusing to create a tag with a digest reference")
        await self._store.tag(record, reference, time.time())
        self._emit("tag", record.id, str(reference))
        await reply.empty(201)

    async def remove(self, request: Request, reply: Reply) -> None:
        name = request.path["name"]
        done = await self._store.remove(name, self._containers.user_of_image, force=request.flag("force"))
        for item in done:
            self._emit("delete" if "Deleted" in item else "untag", item.get("Deleted") or item["Untagged"], name)
        await reply.json(200, done)

    async def load(self, request: Request, reply: Reply) -> None:
        # `quiet` leaves out progress; there is none to leave out.
        with tempfile.NamedTemporaryFile(dir=self._scratch) as file:
            async for piece in request.body():
                await trio.to_thread.run_sync(file.write, piece) if len(piece) > 1 << 16 else file.write(piece)
            file.flush()
            # As moby: nothing before the first image is there (skopeo does not wait longer), and what is wrong with the archive is
            # told in the answer's body.
            failure = await self._load_all(Path(file.name), reply)
            if not reply.started:
                await reply.start("application/json")
            if failure is not None:
                await reply.write(_line(_error(failure)))

    async def _load_all(self, path: Path, reply: Reply) -> VchError | None:
        """Load an archive and tell of each image; the error that ended it, if one did."""
        try:
            async for record, name in load(self._store, path):
                text = f"Loaded image: {name}" if name else f"Loaded image ID: {record.id}"
                if not reply.started:
                    await reply.start("application/json")
                await reply.write(_line({"stream": f"{text}\n"}))
                self._emit("load", record.id, name or record.id)
        except VchError as error:
            return error
        return None

    async def create(self, request: Request, reply: Reply) -> None:
        """docker pull."""
        platform = parse_platform(request.text("platform"))
        if request.text("fromSrc"):
            await self._import(request, reply, platform)
            return
        reference = _wanted(request.text("fromImage"), request.text("tag"))
        credentials = _credentials(request.headers.get("x-registry-auth", ""))
        await self._transfer(
            request, reply, lambda report: self._transfers.pull(reference, credentials, platform, report)
        )

    @staticmethod
    async def _transfer(request: Request, reply: Reply, work: Callable[[Report], Awaitable[None]]) -> None:
        """Send progress as it comes, while the client is there. An error before the first line is a status, later ones are a line."""

        async def report(line: Progress | dict[str, Any]) -> None:
            if not reply.started:
                await reply.start("application/json")
            await reply.write(_line(line))

        failure: VchError | None = None
        async with request.while_connected():
            try:
                await work(report)
            except VchError as error:
                failure = error
        if failure is not None:
            if not reply.started:
                raise failure
            await report(_error(failure))

    async def push(self, request: Request, reply: Reply) -> None:
        header = request.headers.get("x-registry-auth", "")
        credentials = _credentials(header)
        name, tag = request.path["name"], request.text("tag")
        reference = parse_reference(f"{name}:{tag}" if tag else name)
        if reference.digest:
            raise InvalidParameter("cannot push a digest reference")
        await self._transfer(request, reply, lambda report: self._transfers.push(reference, credentials, report))

    async def _import(self, request: Request, reply: Reply, platform: Platform) -> None:
        origin, name = request.text("fromSrc"), request.text("repo")
        tag = request.text("tag")
        reference = parse_reference(f"{name}:{tag}" if tag else name).with_default_tag() if name else None
        if reference is not None and reference.digest:
            raise InvalidParameter("cannot import digest reference")
        message = request.text("message") or f"Imported from {origin}"
        sender, receiver = trio.open_memory_channel[bytes](2)
        record: ImageRecord | None = None

        async def feed() -> None:
            async with sender, aclosing(request.body() if origin == "-" else self._transfers.fetch(origin)) as body:
                async for piece in body:
                    await sender.send(piece)

        with one_by_itself():
            async with receiver, trio.open_nursery() as nursery:
                nursery.start_soon(feed)
                changes = request.query.get("changes", [])
                record = await import_tar(self._store, received(receiver), reference, message, changes, platform)
                nursery.cancel_scope.cancel()
        assert record is not None
        self._emit("import", record.id, str(reference) if reference is not None else record.id)
        await reply.start("application/json")
        await reply.write(_line({"status": record.id}))

    async def prune(self, request: Request, reply: Reply) -> None:
        filters = parse_filters(request.text("filters"), frozenset(("dangling", "label", "label!", "until")))
        only_dangling = (filters.pop("dangling", None) or ["true"])[0] in ("1", "true")
        keep = self._tests(filters)
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
                continue  # somebody has used or removed it meanwhile
            for item in done:
                space += sizes.get(item.get("Deleted", ""), 0)
                self._emit(
                    "delete" if "Deleted" in item else "untag", item.get("Deleted") or item["Untagged"], record.id
                )
            deleted += done
        self._events.publish(Event("image", "prune", "", {"reclaimed": str(space)}))
        await reply.json(200, {"ImagesDeleted": deleted or None, "SpaceReclaimed": space})

    async def commit(self, request: Request, reply: Reply) -> None:
        body = await request.json() or {}
        if not isinstance(body, dict):
            raise InvalidParameter("invalid JSON: a configuration is an object")
        check_config(body)
        repository, tag = request.text("repo"), request.text("tag")
        name = f"{repository}:{tag}" if repository and tag else repository
        pause = request.flag("pause", request.version >= (1, 13))
        wanted = Commit(
            name, request.text("comment"), request.text("author"), pause, request.query.get("changes", []), body
        )
        record = await self._commits.commit(request.text("container"), wanted)
        if name:
            self._emit("tag", record.id, str(parse_reference(name).with_default_tag()))
        await reply.json(201, {"Id": record.id})

    async def auth(self, request: Request, reply: Reply) -> None:
        body = await request.json()
        if not isinstance(body, dict):
            raise InvalidParameter("invalid JSON: no object")
        host = str(body.get("serveraddress") or "").removeprefix("https://").removeprefix("http://").partition("/")[0]
        host = DOCKER_HUB if host in ("", "index.docker.io", "registry-1.docker.io") else host
        known = Credentials(
            str(body.get("username") or ""), str(body.get("password") or ""), str(body.get("identitytoken") or "")
        )
        await self._transfers.log_in(host, known)
        await reply.json(200, {"Status": "Login Succeeded", "IdentityToken": ""})


def _matches(name: str, patterns: list[str]) -> bool:
    """Whether a familiar name, with its tag or digest or without, is like one of the patterns (moby: path.Match)."""
    plain = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
    return any(fnmatch.fnmatchcase(one, pattern) for one in (name, plain) for pattern in patterns)


def _wanted(image: str, tag: str) -> Reference:
    if not image:
        raise InvalidParameter("fromImage is empty")
    if tag.startswith("sha256:"):
        return parse_reference(f"{image}@{tag}")
    # Without a tag all of them are meant; the CLI says latest itself.
    return parse_reference(f"{image}:{tag}" if tag else image)


def _credentials(header: str) -> Credentials:
    """X-Registry-Auth: padded base64url JSON; a pull ignores an invalid one."""
    try:
        raw = msgspec.json.decode(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
        return Credentials(
            str(raw.get("username") or ""), str(raw.get("password") or ""), str(raw.get("identitytoken") or "")
        )
    except (ValueError, AttributeError, msgspec.DecodeError):
        return Credentials()


def _line(value: Progress | dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\r\n"


def _error(error: VchError) -> dict[str, Any]:
    return {"errorDetail": {"message": str(error)}, "error": str(error)}
