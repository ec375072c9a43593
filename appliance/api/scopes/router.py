"""The router of a scope: the routes over the backends of the scope, and one check of the objects that paths name."""

from dataclasses import replace

from appliance.api.access import RouteKey
from appliance.api.router import Route, Router
from appliance.api.routes import Backends, routes_over
from appliance.api.scopes.containers import (
    ScopedCheckpoints,
    ScopedCommits,
    ScopedContainers,
    ScopedCreation,
    ScopedExecs,
)
from appliance.api.scopes.networks import ScopedConnections, ScopedNetworks
from appliance.api.scopes.volumes import ScopedVolumes
from appliance.http import Reply, Request

# Images are shared, and volumes have no short names: their routes find nothing but what ScopedVolumes has.
_UNPINNED = ("images", "distribution", "volumes")


def scoped_backends(backends: Backends, scope: str) -> Backends:
    """The backends, reduced to the objects of a scope."""
    containers = ScopedContainers(backends.containers, scope)
    networks = ScopedNetworks(backends.networks, scope)
    return replace(
        backends,
        containers=containers,
        creation=ScopedCreation(backends.creation, containers, networks),
        execs=ScopedExecs(backends.execs, containers, scope),
        checkpoints=ScopedCheckpoints(backends.checkpoints, containers),
        commits=ScopedCommits(backends.commits, containers),
        networks=networks,
        connections=ScopedConnections(backends.connections, containers, networks),
        volumes=ScopedVolumes(backends.volumes, containers, scope),
        # Its records show the commands of all builds. A client with a scope cannot build.
        build_cache=None,
    )


def scoped_router(backends: Backends, scope: str) -> Router:
    """The router for the clients of a scope."""
    own = scoped_backends(backends, scope)
    router = Router(scope)
    for (method, path), route in routes_over(own).items():
        router.add(method, path, _pinned((method, path), route, own))
    return router


def _pinned(key: RouteKey, route: Route, own: Backends) -> Route:
    """The route, called with the id of the object that the path names.

    NotFound in Docker's words when the object is not in the scope. The id, since a name may mean another owner's object by the time at
    which the route has read the request's body.
    """
    noun, _, rest = key[1].removeprefix("/").partition("/")
    if not rest.startswith("{") or noun in _UNPINNED:
        return route

    async def pinned(request: Request, reply: Reply) -> None:
        match noun:
            case "containers":
                request.path["name"] = own.containers.get(request.path["name"]).id
            case "exec":
                request.path["id"] = own.execs.get(request.path["id"]).id
            case "networks":
                request.path["name"] = own.networks.get(request.path["name"]).id
            case _:
                # `access.py` allows no such route to a client with a scope.
                raise AssertionError(key)
        await route(request, reply)

    return pinned
