"""Builds and plug-ins are not supported. Listings are empty; requests to create one return 501."""

import time

from appliance.api.filters import parse_filters
from appliance.api.router import Route
from appliance.api.times import parse_timestamp
from appliance.errors import InvalidParameter, NotFound, Unsupported
from appliance.http import Reply, Request


class UnsupportedRoutes:
    """See the module."""

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {
            ("POST", "/build"): self.refuse_build,
            ("POST", "/session"): self.refuse_build,
            ("POST", "/grpc"): self.refuse_build,
            ("POST", "/build/prune"): self.prune_builds,
            ("GET", "/plugins"): self.list_plugins,
            ("GET", "/plugins/privileges"): self.refuse_plugin,
            ("POST", "/plugins/pull"): self.refuse_plugin,
            ("POST", "/plugins/create"): self.refuse_plugin,
            ("GET", "/plugins/{name:.*}/json"): self.find_no_plugin,
            ("POST", "/plugins/{name:.*}/enable"): self.find_no_plugin,
            ("POST", "/plugins/{name:.*}/disable"): self.find_no_plugin,
            ("DELETE", "/plugins/{name:.*}"): self.find_no_plugin,
        }

    async def refuse_build(self, request: Request, reply: Reply) -> None:
        """POST /build, /session and /grpc."""
        raise Unsupported("docker build is not supported: build elsewhere, and push or load the image")

    async def prune_builds(self, request: Request, reply: Reply) -> None:
        """POST /build/prune. `docker system prune` calls it too."""
        filters = parse_filters(request.text("filters"), "POST /build/prune")
        times = filters.values("until") + filters.values("unused-for")
        if len(times) > 1:
            raise InvalidParameter("filters expect only one value")
        for text in times:
            parse_timestamp(text, time.time_ns())
        await reply.json(200, {"CachesDeleted": None, "SpaceReclaimed": 0})

    async def list_plugins(self, request: Request, reply: Reply) -> None:
        """GET /plugins."""
        parse_filters(request.text("filters"), "GET /plugins").boolean("enabled", False)
        await reply.json(200, [])

    async def refuse_plugin(self, request: Request, reply: Reply) -> None:
        """POST /plugins/pull and the like."""
        raise Unsupported("plugins are not supported")

    async def find_no_plugin(self, request: Request, reply: Reply) -> None:
        """Anything about one plug-in: there is none."""
        raise NotFound(f'plugin "{request.path["name"]}" not found')
