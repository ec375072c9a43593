"""Routes under /images, and /auth."""

import base64
import fnmatch
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from appliance.api.backend import CommitBackend, ContainerBackend, EventBackend
from appliance.api.filters import matches_labels, parse_filters
from appliance.api.hostconfig import check_config
from appliance.api.router import Route
from appliance.api.shapes import inspect_image, list_image
from appliance.container.commit import Commit
from appliance.container.event import Event
from appliance.errors import InvalidParameter, NotFound, VchError
from appliance.http import Reply, Request
from appliance.image.load import load
from appliance.image.pull import pull
from appliance.image.reference import DOCKER_HUB, Reference, parse_reference
from appliance.image.store import ImageStore
from appliance.registry import Credentials, Registry

_FILTERS = frozenset(("dangling", "label", "label!", "before", "since", "reference", "until"))
Dial = Callable[[str, Credentials], Registry]
"""A registry client for a host."""


class ImageRoutes:
    def __init__(
        self, store: ImageStore, containers: ContainerBackend, commits: CommitBackend, events: EventBackend, dial: Dial,
        scratch: Path,
    ) -> None:  # fmt: skip
        self._store = store
        self._containers = containers
        self._commits = commits
        self._events = events
        self._dial = dial
        self._scratch = scratch

    def routes(self) -> dict[tuple[str, str], Route]:
        return {
            ("GET", "/images/json"): self.list_all,
            ("POST", "/images/load"): self.load,
            ("POST", "/images/create"): self.create,
            ("GET", "/images/{name:.*}/json"): self.inspect,
            ("GET", "/images/{name:.*}/history"): self.history,
            ("POST", "/images/{name:.*}/tag"): self.tag,
            ("DELETE", "/images/{name:.*}"): self.remove,
            ("POST", "/commit"): self.commit,
            ("POST", "/auth"): self.auth,
        }

    def _emit(self, action: str, image_id: str, name: str) -> None:
        self._events.publish(Event("image", action, image_id, {"name": name}))

    async def list_all(self, request: Request, reply: Reply) -> None:
        filters = parse_filters(request.text("filters"), _FILTERS)
        if request.text("filter"):
            filters.setdefault("reference", []).append(request.text("filter"))
        shapes = []
        for record in self._store.all():
            config = self._store.config(record.id)
            dangling = not record.references
            if filters.get("dangling") and dangling != (filters["dangling"][0] in ("1", "true")):
                continue
            if not matches_labels(filters.get("label", []), config.config.get("Labels") or {}):
                continue
            users = sum(1 for container in self._containers.all() if container.record.image_id == record.id)
            shape = list_image(record, config, self._store.size(record), users, request.version)
            if filters.get("reference") and not any(
                _matches(pattern, shape["RepoTags"]) for pattern in filters["reference"]
            ):
                continue
            shapes.append(shape)
        shapes.sort(key=lambda shape: shape["Created"], reverse=True)
        await reply.json(200, shapes)

    async def inspect(self, request: Request, reply: Reply) -> None:
        record = self._store.get(request.path["name"])
        config = self._store.config(record.id)
        await reply.json(200, inspect_image(record, config, self._store.size(record), request.version))

    async def history(self, request: Request, reply: Reply) -> None:
        record = self._store.get(request.path["name"])
        sizes = list(record.sizes)
        rows = []
        for entry in self._store.config(record.id).raw.get("history") or ():
            size = 0 if entry.get("empty_layer") or not sizes else sizes.pop(0)
            rows.append({
                "Id": "<missing>", "Created": 0, "CreatedBy": entry.get("created_by") or "", "Tags": None, "Size": size,
                "Comment": entry.get("comment") or "",
            })  # fmt: skip
        rows.reverse()
        if rows:
            rows[0] |= {"Id": record.id, "Tags": [str(parse_reference(name)) for name in record.references] or None}
        await reply.json(200, rows)

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
            failure: VchError | None = None
            try:
                async for record, name in load(self._store, Path(file.name)):
                    if not reply.started:
                        await reply.start("application/json")
                    text = f"Loaded image: {name}" if name else f"Loaded image ID: {record.id}"
                    await reply.write(_line({"stream": f"{text}\n"}))
                    self._emit("load", record.id, name or record.id)
            except VchError as error:
                if not reply.started:
                    raise
                failure = error
        if failure is not None:
            await reply.write(_line(_error(failure)))
        elif not reply.started:
            await reply.start("application/json")

    async def create(self, request: Request, reply: Reply) -> None:
        """docker pull."""
        if request.text("fromSrc"):
            raise InvalidParameter("docker import is not supported yet")
        platform = request.text("platform")
        if platform and platform not in ("linux", "linux/amd64"):
            raise NotFound(f"no matching manifest for {platform} in the manifest list entries")
        reference = _wanted(request.text("fromImage"), request.text("tag"))
        credentials = _credentials(request.headers.get("x-registry-auth", ""))

        async def report(line: dict[str, Any]) -> None:
            if not reply.started:
                await reply.start("application/json")
            await reply.write(_line(line))

        try:
            async with self._dial(reference.domain, credentials) as registry:
                await pull(self._store, registry, reference, report)
            self._emit("pull", str(reference), reference.familiar_name)
        except VchError as error:
            if not reply.started:
                raise
            await report(_error(error))

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
        async with self._dial(host, known) as registry:
            await registry.ping()
        await reply.json(200, {"Status": "Login Succeeded", "IdentityToken": ""})


def _matches(pattern: str, tags: list[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(tag, pattern) or fnmatch.fnmatchcase(tag.rpartition(":")[0], pattern) for tag in tags
    )


def _wanted(image: str, tag: str) -> Reference:
    if not image:
        raise InvalidParameter("fromImage is empty")
    if tag.startswith("sha256:"):
        return parse_reference(f"{image}@{tag}")
    reference = parse_reference(f"{image}:{tag}" if tag else image)
    return reference.with_default_tag()


def _credentials(header: str) -> Credentials:
    """X-Registry-Auth: padded base64url JSON; a pull ignores an invalid one."""
    try:
        raw = msgspec.json.decode(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
        return Credentials(
            str(raw.get("username") or ""), str(raw.get("password") or ""), str(raw.get("identitytoken") or "")
        )
    except (ValueError, AttributeError, msgspec.DecodeError):
        return Credentials()


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\r\n"


def _error(error: VchError) -> dict[str, Any]:
    return {"errorDetail": {"message": str(error)}, "error": str(error)}
