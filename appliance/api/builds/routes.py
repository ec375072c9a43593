"""`POST /build`, `/build/cancel` and `/build/prune`: builds of clients that do not speak BuildKit's API."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from appliance.api.builds.lines import BuildAnswer
from appliance.api.builds.parameters import build_request, image_names, registry_credentials
from appliance.api.filters import Filters, parse_filters
from appliance.api.router import Route
from appliance.api.times import parse_timestamp
from appliance.container.build_lines import BuildLine
from appliance.container.build_request import UPLOAD_REQUEST, BuildRequest, PruneRequest
from appliance.errors import InvalidParameter, VchError
from appliance.http import Reply, Request
from appliance.image.reference import Reference
from appliance.registry import Credentials

_CACHE_FIELDS = ("id", "parent", "type", "description", "inuse", "shared", "private")
_SPACES_SINCE = (1, 48)


class OpenBuild(Protocol):
    """A build whose context has arrived."""

    async def run(self, report: Callable[[BuildLine], Awaitable[None]]) -> None:
        """Build the image. BuildFailed when that fails."""


class BuildBackend(Protocol):
    """What these routes call. engine.builds.classic satisfies it without importing it."""

    def open(
        self,
        request: BuildRequest,
        names: Sequence[Reference],
        credentials: Mapping[str, Credentials],
        body: AsyncGenerator[bytes, None],
    ) -> AbstractAsyncContextManager[OpenBuild]:
        """Receive the context of a build."""

    async def upload(self, build: str, body: AsyncGenerator[bytes, None]) -> None:
        """Receive the context of a build that another request has asked for."""

    def cancel(self, build: str) -> None:
        """Cancel the build of this ID, if there is one."""


class PruneBackend(Protocol):
    """The build cache. engine.builds.cache satisfies it without importing it."""

    async def prune(self, request: PruneRequest) -> tuple[list[str], int]:
        """Remove records of the cache: their IDs, and their bytes in all."""


class BuildRoutes:
    """See the module."""

    def __init__(self, builds: BuildBackend, cache: PruneBackend) -> None:
        self._builds = builds
        self._cache = cache

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {
            ("POST", "/build"): self.build,
            ("POST", "/build/cancel"): self.cancel,
            ("POST", "/build/prune"): self.prune,
        }

    async def build(self, request: Request, reply: Reply) -> None:
        """POST /build."""
        asked, warnings = build_request(request)
        answer = BuildAnswer(reply, request.version)
        if asked.buildid.startswith(f"{UPLOAD_REQUEST}:"):
            await self._builds.upload(asked.buildid.partition(":")[2], request.body())
            await answer.start()
            return
        names, credentials = image_names(asked), registry_credentials(request)
        async with self._builds.open(asked, names, credentials, request.body()) as build:
            failure: VchError | None = None
            async with request.while_connected():
                try:
                    if not asked.q and not asked.is_buildkit:
                        for warning in warnings:
                            await answer.write(BuildLine(f"[Warning] {warning}\n"))
                    await build.run(answer.write)
                except VchError as error:
                    failure = error
        if failure is not None:
            await answer.fail(failure)
        else:
            await answer.start()

    async def cancel(self, request: Request, reply: Reply) -> None:
        """POST /build/cancel."""
        if not (build := request.text("id")):
            raise InvalidParameter("build ID not provided")
        self._builds.cancel(build)
        await reply.empty(200)

    async def prune(self, request: Request, reply: Reply) -> None:
        """POST /build/prune."""
        asked = prune_request(request, time.time_ns())
        async with request.while_connected():
            removed, size = await self._cache.prune(asked)
        await reply.json(200, {"CachesDeleted": removed or None, "SpaceReclaimed": size})


def prune_request(request: Request, now: int) -> PruneRequest:
    """What a prune of the build cache leaves. `now` in unix ns. InvalidParameter with moby's texts (toBuildkitPruneInfo)."""
    filters = parse_filters(request.text("filters"), "POST /build/prune")
    if request.version >= _SPACES_SINCE:
        reserved = _bytes(request, "reserved-space") or _bytes(request, "keep-storage")
        most, free = _bytes(request, "max-used-space"), _bytes(request, "min-free-space")
    else:
        reserved, most, free = _bytes(request, "keep-storage"), 0, 0
    return PruneRequest(
        everything=request.flag("all"),
        filters=_cache_filters(filters),
        keep_duration=_keep_duration(filters, now),
        reserved_space=reserved,
        max_used_space=most,
        min_free_space=free,
    )


def _bytes(request: Request, name: str) -> int:
    try:
        return request.number(name) or 0
    except InvalidParameter as error:
        text = f"{name} is in bytes and expects an integer, got {request.text(name)}: {error}"
        raise InvalidParameter(text) from error


def _keep_duration(filters: Filters, now: int) -> int:
    """Nanoseconds. `unused-for` is an old name of `until`."""
    until, unused = filters.values("until"), filters.values("unused-for")
    if until and unused:
        raise InvalidParameter('conflicting filters: "until" and "unused-for"')
    values = until + unused
    if len(values) > 1:
        raise InvalidParameter("filters expect only one value")
    if not values:
        return 0
    try:
        return max(0, now - parse_timestamp(values[0], now))
    except InvalidParameter as error:
        name = "unused-for" if unused else "until"
        text = f"\"{name}\" filter expects a duration (e.g., '24h') or a timestamp: {error}"
        raise InvalidParameter(text) from error


def _cache_filters(filters: Filters) -> tuple[str, ...]:
    found = []
    for name in _CACHE_FIELDS:
        if name not in filters:
            continue
        values = filters.values(name)
        if len(values) > 1:
            raise InvalidParameter("filters expect only one value")
        # BuildKit takes the beginning of an ID.
        found.append(f"{name}{'~=' if name == 'id' else '=='}{values[0]}" if values else name)
    # All of one text have to match; of several texts one.
    return (",".join(found),) if found else ()
