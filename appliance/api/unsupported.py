"""Plug-ins are not supported. Listings are empty; requests to create one return 501."""

from appliance.api.filters import parse_filters
from appliance.api.router import Route
from appliance.errors import NotFound, Unsupported
from appliance.http import Reply, Request


class UnsupportedRoutes:
    """See the module."""

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {
            ("GET", "/plugins"): self.list_plugins,
            ("GET", "/plugins/privileges"): self.refuse_plugin,
            ("POST", "/plugins/pull"): self.refuse_plugin,
            ("POST", "/plugins/create"): self.refuse_plugin,
            ("GET", "/plugins/{name:.*}/json"): self.find_no_plugin,
            ("POST", "/plugins/{name:.*}/enable"): self.find_no_plugin,
            ("POST", "/plugins/{name:.*}/disable"): self.find_no_plugin,
            ("DELETE", "/plugins/{name:.*}"): self.find_no_plugin,
        }

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
