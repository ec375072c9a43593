"""Routes that move images in and out: pull, push, import, load, save; search, log-in and /distribution ask a registry."""

import base64
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import IO, Any

import msgspec

from appliance.api.backend import EventBackend, TransferBackend
from appliance.api.filters import parse_filters, parse_number
from appliance.api.router import Route
from appliance.container.event import Event
from appliance.errors import InvalidParameter, VchError
from appliance.http import Reply, Request
from appliance.image.archive import receive
from appliance.image.imports import import_tar
from appliance.image.load import load
from appliance.image.platform import Platform, parse_platform
from appliance.image.progress import Progress, Report
from appliance.image.reference import DOCKER_HUB, Reference, parse_reference, tag_reference
from appliance.image.save import save
from appliance.image.store import ImageRecord, ImageStore
from appliance.registry import Credentials

_SEARCH_RESULTS = 25
_MAX_SEARCH_RESULTS = 100


class ImageTransferRoutes:
    """`scratch` is a folder for archives while they are loaded."""

    def __init__(self, store: ImageStore, transfers: TransferBackend, events: EventBackend, scratch: Path) -> None:
        self._store = store
        self._transfers = transfers
        self._events = events
        self._scratch = scratch

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {
            ("POST", "/images/create"): self.pull_or_import,
            ("POST", "/images/{name:.*}/push"): self.push,
            ("POST", "/images/load"): self.load,
            ("GET", "/images/get"): self.save,
            ("GET", "/images/{name:.*}/get"): self.save,
            ("GET", "/images/search"): self.search,
            ("GET", "/distribution/{name:.*}/json"): self.distribution,
            ("POST", "/auth"): self.auth,
        }

    def _emit(self, action: str, image_id: str, name: str) -> None:
        self._events.publish(Event("image", action, image_id, {"name": name}))

    # -- registries -----------------------------------------------------------------------------------------------

    async def pull_or_import(self, request: Request, reply: Reply) -> None:
        """POST /images/create: `docker pull` has `fromImage`, `docker import` has `fromSrc`."""
        platform = parse_platform(request.text("platform"))
        if request.text("fromSrc"):
            await self._import(request, reply, platform)
            return
        reference = _pulled_reference(request.text("fromImage"), request.text("tag"))
        credentials = _credentials(request)
        await self._transfer(
            request, reply, lambda report: self._transfers.pull(reference, credentials, platform, report)
        )

    @staticmethod
    async def _transfer(request: Request, reply: Reply, work: Callable[[Report], Awaitable[None]]) -> None:
        """Send progress lines while the client is connected. An error before the first line is a status, a later error is a line."""

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
        """POST /images/{name}/push."""
        credentials = _credentials(request)
        name, tag = request.path["name"], request.text("tag")
        reference = parse_reference(f"{name}:{tag}" if tag else name)
        if reference.digest:
            raise InvalidParameter("cannot push a digest reference")
        await self._transfer(request, reply, lambda report: self._transfers.push(reference, credentials, report))

    async def distribution(self, request: Request, reply: Reply) -> None:
        """GET /distribution/{name}/json: the manifest's descriptor and platforms."""
        reference = parse_reference(request.path["name"]).with_default_tag()
        found = await self._transfers.distribution(reference, _credentials(request))
        await reply.json(200, found)

    async def search(self, request: Request, reply: Reply) -> None:
        """GET /images/search."""
        filters = parse_filters(request.text("filters"), "GET /images/search")
        limit = request.number("limit")
        limit = _SEARCH_RESULTS if limit is None else limit
        if not 1 <= limit <= _MAX_SEARCH_RESULTS:
            raise InvalidParameter(f"limit {limit} is outside the range of [1, {_MAX_SEARCH_RESULTS}]")
        automated = filters.boolean("is-automated", False)
        official = filters.boolean("is-official", False) if "is-official" in filters else None
        stars = max((parse_number("stars", text) for text in filters.values("stars")), default=0)
        credentials = _credentials(request)
        rows = await self._transfers.search(request.text("term"), credentials, limit)
        # Docker Hub calls no image automated any more.
        found = [
            row
            for row in rows
            if not automated and (row.star_count or 0) >= stars and official in (None, bool(row.is_official))
        ]
        await reply.json(200, found)

    async def auth(self, request: Request, reply: Reply) -> None:
        """POST /auth: check the credentials with the registry. vchd keeps none."""
        body = await request.json()
        if not isinstance(body, dict):
            raise InvalidParameter("invalid JSON: credentials are an object")
        host = str(body.get("serveraddress") or "").removeprefix("https://").removeprefix("http://").partition("/")[0]
        host = DOCKER_HUB if host in ("", "index.docker.io", "registry-1.docker.io") else host
        known = Credentials(
            str(body.get("username") or ""), str(body.get("password") or ""), str(body.get("identitytoken") or "")
        )
        await self._transfers.log_in(host, known)
        await reply.json(200, {"Status": "Login Succeeded", "IdentityToken": ""})

    # -- archives -------------------------------------------------------------------------------------------------

    async def _import(self, request: Request, reply: Reply, platform: Platform) -> None:
        """Make an image of a tar: the request's body (`fromSrc` "-"), or what a URL returns."""
        origin, name = request.text("fromSrc"), request.text("repo")
        reference = tag_reference(name, request.text("tag")) if name else None
        message = request.text("message") or f"Imported from {origin}"
        changes = request.query.get("changes", [])
        body = request.body() if origin == "-" else self._transfers.fetch(origin)
        async with aclosing(body):
            record = await import_tar(self._store, body, reference, message, changes, platform)
        self._emit("import", record.id, str(reference) if reference is not None else record.id)
        await reply.start("application/json")
        await reply.write(_line({"status": record.id}))

    async def load(self, request: Request, reply: Reply) -> None:
        """POST /images/load. `quiet` has no effect: there are no progress lines."""
        with tempfile.NamedTemporaryFile(dir=self._scratch) as file:
            # As moby: the head goes with the first loaded image (skopeo waits no longer), and the body reports a faulty archive.
            failure = await self._receive_and_load(request, file, reply)
            if not reply.started:
                await reply.start("application/json")
            if failure is not None:
                await reply.write(_line(_error(failure)))

    async def _receive_and_load(self, request: Request, file: IO[bytes], reply: Reply) -> VchError | None:
        """Load an archive while the client is connected. Returns the error that ended the load, if any."""
        try:
            await receive(request.body(), file, self._scratch)
        except VchError as error:
            return error
        async with request.while_connected():
            return await self._load_all(file, reply)

    async def _load_all(self, file: IO[bytes], reply: Reply) -> VchError | None:
        """Load each image and report it. Returns the error that ended the load, if any."""
        try:
            async with aclosing(load(self._store, Path(file.name))) as images:
                async for image in images:
                    if not reply.started:
                        await reply.start("application/json")
                    if image.replaced:
                        text = f"The image {image.name} already exists, renaming the old one with ID {image.replaced} to empty string"
                        await reply.write(_line({"stream": f"{text}\n"}))
                    text = f"Loaded image: {image.name}" if image.name else f"Loaded image ID: {image.record.id}"
                    await reply.write(_line({"stream": f"{text}\n"}))
                    self._emit("load", image.record.id, image.name or image.record.id)
        except VchError as error:
            return error
        return None

    async def save(self, request: Request, reply: Reply) -> None:
        """GET /images/get and /images/{name}/get: one image, or those of `names`."""
        names = [request.path["name"]] if "name" in request.path else request.query.get("names", [])
        if not names:
            raise InvalidParameter("no image to save")
        images: dict[str, tuple[ImageRecord, list[str]]] = {}
        for name in (part for text in names for part in text.split(",")):
            record = self._store.get(name)
            _, saved_names = images.setdefault(record.id, (record, []))
            for full in self._names_of(record, name):
                if full not in saved_names:
                    saved_names.append(full)
        async with aclosing(save(self._store, list(images.values()))) as pieces:
            await reply.start("application/x-tar")
            async for piece in pieces:
                await reply.write(piece)
        for record, _ in images.values():
            self._emit("save", record.id, record.id)

    @staticmethod
    def _names_of(record: ImageRecord, text: str) -> list[str]:
        """The names that go into the archive: the tag that was asked for, none for an id."""
        try:
            reference = parse_reference(text)
        except InvalidParameter:
            return []
        full = f"{reference.name}:{reference.with_default_tag().tag}"
        return [full] if full in record.references else []


def _pulled_reference(image: str, tag: str) -> Reference:
    if not image:
        raise InvalidParameter("fromImage is empty")
    if tag.startswith("sha256:"):
        return parse_reference(f"{image}@{tag}")
    # Without a tag Docker pulls all tags. The CLI adds ":latest" itself.
    return parse_reference(f"{image}:{tag}" if tag else image)


def _credentials(request: Request) -> Credentials:
    """The header X-Registry-Auth: base64url of JSON. As Docker, we ignore a malformed header."""
    header = request.headers.get("x-registry-auth", "")
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
