"""Finds the route of a request by its version prefix, method and path, and turns errors into statuses."""

import logging
import re
import urllib.parse
from collections.abc import Awaitable, Callable

from appliance.api.access import RouteKey, check_access, check_authorised
from appliance.api.status import status_of
from appliance.errors import InvalidParameter, NotModified, VchError, unforeseen
from appliance.http import Disconnected, Reply, Request

log = logging.getLogger(__name__)

Version = tuple[int, int]
OLDEST: Version = (1, 22)
NEWEST: Version = (1, 51)
# The last Docker Engine whose newest API is NEWEST. Clients compare it with the versions that they need.
ENGINE_VERSION = "28.5.2"
Route = Callable[[Request, Reply], Awaitable[None]]
_PREFIX = re.compile(r"/v([0-9]{1,3})\.([0-9]{1,3})(/.*)")


def dotted(version: Version) -> str:
    """The version as text, such as "1.51"."""
    return f"{version[0]}.{version[1]}"


class Router:
    """Routes by method and path. `{name}` matches one segment of a path, `{name:.*}` one or more.

    `keys` are the method and path of each route. A client whose role does not allow a route gets 403. `scope`: what the routes see
    are the objects of this scope, "" for all objects; a client of another scope gets 403.
    """

    def __init__(self, scope: str = "") -> None:
        self._scope = scope
        self._static: dict[tuple[str, str], Route] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], str, Route]]] = {}
        self.keys: list[RouteKey] = []

    def add(self, method: str, path: str, route: Route) -> None:
        """Add one route. Patterns are tried in the order in which they were added."""
        self.keys.append((method, path))
        if "{" not in path:
            self._static[(method, path)] = route
            return
        pattern = re.sub(r"\{(\w+):\.\*\}", r"(?P<\1>.+)", path)
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)
        self._patterns.setdefault(method, []).append((re.compile(pattern), path, route))

    def add_all(self, routes: dict[tuple[str, str], Route]) -> None:
        """Add routes by (method, path)."""
        for (method, path), route in routes.items():
            self.add(method, path, route)

    async def __call__(self, request: Request, reply: Reply) -> None:
        """Answer a request. Errors become statuses, unless the answer has begun."""
        try:
            await self._dispatch(request, reply)
        except NotModified:
            await reply.empty(304)
        except VchError as error:
            if reply.started:
                # The status is sent already. The client notices the error because the last chunk is missing.
                log.warning("%s %s: the answer ends early: %s", request.method, request.raw_path, error)
                raise Disconnected from error
            await reply.json(status_of(error), {"message": str(error)})
        except Disconnected:
            raise
        except Exception as error:
            log.exception("%s %s failed", request.method, request.raw_path)
            if reply.started:
                raise Disconnected from error
            await reply.json(500, {"message": str(unforeseen(error))})

    async def _dispatch(self, request: Request, reply: Reply) -> None:
        check_authorised(request.principal, self._scope)
        path = request.raw_path
        request.version = NEWEST
        if path.startswith("/v") and (match := _PREFIX.fullmatch(path)):
            version = (int(match[1]), int(match[2]))
            if version < OLDEST:
                raise InvalidParameter(
                    f"client version {dotted(version)} is too old. Minimum supported API version is {dotted(OLDEST)}, "
                    "please upgrade your client to a newer version"
                )
            if version > NEWEST:
                raise InvalidParameter(
                    f"client version {dotted(version)} is too new. Maximum supported API version is {dotted(NEWEST)}"
                )
            request.version = version
            path = match[3]
        route = self._static.get((request.method, path))
        if route is None:
            path, route = self._match(request, path)
        if route is None:
            await reply.json(404, {"message": "page not found"})
            return
        check_access(request, (request.method, path))
        await route(request, reply)

    def _match(self, request: Request, path: str) -> tuple[str, Route | None]:
        """The path of the route as it was added, and the route; fills `request.path`."""
        for pattern, added, route in self._patterns.get(request.method, ()):
            if match := pattern.fullmatch(path):
                request.path = {name: urllib.parse.unquote(value) for name, value in match.groupdict().items()}
                return added, route
        return path, None
