"""Keeps clients with a role below `full` away from the daemon's own containers.

The builder holds keys of the door and of registries, passwords of proxies, and the caches of all builds. A client that may read the
files or the logs of containers must not get them.
"""

from contextlib import suppress

from appliance.api.backend import ContainerRegistry
from appliance.api.router import Route
from appliance.errors import Forbidden, VchError
from appliance.http import Reply, Request
from appliance.roles import Role

_CONTAINER = "/containers/{name}"


def guard_daemon_objects(
    routes: dict[tuple[str, str], Route], registry: ContainerRegistry
) -> dict[tuple[str, str], Route]:
    """The same routes. Those of one container refuse the daemon's own containers to clients without full access."""
    return {key: _guarded(route, registry) if key[1].startswith(_CONTAINER) else route for key, route in routes.items()}


def _guarded(route: Route, registry: ContainerRegistry) -> Route:
    async def guarded(request: Request, reply: Reply) -> None:
        principal = request.principal
        if principal.role is not Role.FULL:
            role = ""
            # The route answers with the error.
            with suppress(VchError):
                role = registry.get(request.path["name"]).record.role
            if role:
                raise Forbidden(f"authorization denied: {principal.name} may not use the {role} of this daemon")
        await route(request, reply)

    return guarded
