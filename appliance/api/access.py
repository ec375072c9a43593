"""What each role may do: the one table of routes and roles, from which ROLES.md is written.

`Router` asks `check_access` before each request. A route that the table does not name is for the role `full` alone.
"""

from collections.abc import Collection, Iterable, Sequence

from appliance.config import Rule
from appliance.errors import Forbidden
from appliance.http import Peer, Request
from appliance.roles import Principal, Role, most_generous

RouteKey = tuple[str, str]
"""The method and the path of a route, as it is added to the router."""

_READERS = frozenset((Role.READ, Role.FILES, Role.REGISTRY, Role.SCOPED))
_FILES = frozenset((Role.FILES, Role.SCOPED))
_SAVE = frozenset((Role.FILES,))
_PULL = frozenset((Role.REGISTRY, Role.SCOPED))
_REGISTRY = frozenset((Role.REGISTRY,))
_SCOPED = frozenset((Role.SCOPED,))
# The swarm is the daemon's: a client with a scope has no part of it.
_SWARM = _READERS - _SCOPED

_CONTAINER = "/containers/{name}"
_ROUTES: tuple[tuple[frozenset[Role], str], ...] = (
    (
        _READERS,
        "GET /_ping, HEAD /_ping, GET /version, GET /info, GET /events, GET /system/df, GET /containers/json, "
        "GET /containers/{name}/json, GET /containers/{name}/logs, GET /containers/{name}/stats, GET /containers/{name}/top, "
        "GET /containers/{name}/checkpoints, GET /exec/{id}/json, GET /images/json, GET /images/{name:.*}/json, "
        "GET /images/{name:.*}/history, GET /networks, GET /networks/json, GET /networks/{name}, GET /volumes, GET /volumes/{name}",
    ),
    (
        _SWARM,
        "GET /swarm, GET /nodes, GET /nodes/{name}, GET /services, GET /services/{name}, GET /tasks, GET /tasks/{name}, "
        "GET /secrets, GET /secrets/{name}, GET /configs, GET /configs/{name}, GET /plugins, GET /plugins/{name:.*}/json",
    ),
    # These read every file of a container, and start the machine of a stopped container.
    (
        _FILES,
        "HEAD /containers/{name}/archive, GET /containers/{name}/archive, POST /containers/{name}/copy, "
        "GET /containers/{name}/changes, GET /containers/{name}/export",
    ),
    (_SAVE, "GET /images/get, GET /images/{name:.*}/get"),
    (_PULL, "POST /images/create, GET /images/search, GET /distribution/{name:.*}/json, POST /auth"),
    # Not `load` and `import`: what they bring comes from the client, and --allow-registries does not apply to it.
    (_REGISTRY, "POST /images/{name:.*}/push, POST /images/{name:.*}/tag"),
    (
        _SCOPED,
        "POST /containers/create, POST /containers/prune, DELETE /containers/{name}, DELETE /containers/{name}/{alias}, "
        "POST /containers/{name}/start, POST /containers/{name}/stop, POST /containers/{name}/restart, POST /containers/{name}/kill, "
        "POST /containers/{name}/pause, POST /containers/{name}/unpause, POST /containers/{name}/wait, "
        "POST /containers/{name}/resize, POST /containers/{name}/rename, POST /containers/{name}/update, "
        "POST /containers/{name}/attach, GET /containers/{name}/attach/ws, PUT /containers/{name}/archive, "
        "POST /containers/{name}/checkpoints, DELETE /containers/{name}/checkpoints/{checkpoint}, "
        "POST /containers/{name}/exec, POST /exec/{id}/start, POST /exec/{id}/resize, POST /commit, "
        "POST /networks/create, POST /networks/prune, DELETE /networks/{name}, POST /networks/{name}/connect, "
        "POST /networks/{name}/disconnect, POST /volumes/create, POST /volumes/prune, DELETE /volumes/{name}",
    ),
)
_ALLOWED: dict[RouteKey, frozenset[Role]] = {
    (method, path): roles
    for roles, routes in _ROUTES
    for method, _, path in (route.partition(" ") for route in routes.split(", "))
}
# Query parameters that only a client with the role `full` may give a value: they name folders of the host, or import an image.
_FULL_PARAMETERS: dict[RouteKey, str] = {
    ("GET", f"{_CONTAINER}/checkpoints"): "dir",
    ("DELETE", f"{_CONTAINER}/checkpoints/{{checkpoint}}"): "dir",
    ("POST", f"{_CONTAINER}/start"): "checkpoint-dir",
    ("POST", "/images/create"): "fromSrc",
}

_INTRODUCTION = """# Which routes each role may call

`document` in `access.py` writes this file from the table there. `none` may call no route; `full` may call all of them, also those that
this table does not name. A client with a scope finds only the objects of its scope, whatever its role.

| role | for |
|---|---|
| `read` | lists, inspect (without the values of environment variables), logs, stats, events; no route starts a machine or asks a registry |
| `files` | `read`, and the contents of containers and images |
| `registry` | `read`, and pull, push, tag, search; not `load` and `import`, whose contents come from the client |
| `scoped` | working with the objects that the client itself has made; pulling and inspecting images. No paths and devices of the host |

| route | read | files | registry | scoped |
|---|---|---|---|---|"""
_SHOWN = (Role.READ, Role.FILES, Role.REGISTRY, Role.SCOPED)


def document(routes: Iterable[RouteKey]) -> str:
    """The text of ROLES.md for all routes of the router."""
    rows = []
    for key in sorted(routes, key=lambda key: (key[1], key[0])):
        marks = " | ".join("yes" if role in _ALLOWED.get(key, ()) else "" for role in _SHOWN)
        parameter = f", without `{_FULL_PARAMETERS[key]}`" if key in _FULL_PARAMETERS else ""
        rows.append(f"| `{key[0]} {key[1]}`{parameter} | {marks} |")
    return "\n".join([_INTRODUCTION, *rows, ""])


def known_routes() -> Collection[RouteKey]:
    """The routes that the table names."""
    return _ALLOWED.keys()


def principal_of(peer: Peer, rules: Sequence[Rule]) -> Principal:
    """The principal of a TLS client. Without rules every client has full access, else the most generous matching rule counts.

    The scope of a scoped client is its certificate's CN; a certificate without a CN names no client, and gets no scope.
    """
    name = f"client certificate CN={peer.common_name}"
    if not rules:
        return Principal(name, Role.FULL)
    role = most_generous(
        rule.role
        for rule in rules
        if rule.fits(peer.common_name, peer.units) and (rule.role is not Role.SCOPED or peer.common_name)
    )
    return Principal(name, role, name if role is Role.SCOPED else "")


def check_authorised(principal: Principal, scope: str) -> None:
    """Forbidden for a principal that may call no route, or that belongs to another scope than the routes."""
    if principal.role is Role.NONE or principal.scope != scope:
        raise Forbidden(f"authorization denied: {principal.name} is not authorised to use this API")


def check_access(request: Request, key: RouteKey) -> None:
    """Forbidden when the request's principal may not call this route with these query parameters."""
    principal = request.principal
    if principal.role is Role.FULL and not principal.scope:
        return
    allowed = _ALLOWED.get(key, ())
    if principal.role not in allowed or (principal.scope and Role.SCOPED not in allowed):
        raise _denied(principal, f"{key[0]} {key[1].replace(':.*', '')}")
    parameter = _FULL_PARAMETERS.get(key)
    if parameter is not None and any(request.query.get(parameter, ())):
        raise _denied(principal, f"the parameter {parameter}")


def _denied(principal: Principal, what: str) -> Forbidden:
    if principal.role is Role.READ:
        return Forbidden(f"authorization denied: {principal.name} may only read")
    return Forbidden(f"authorization denied: the role {principal.role.value} of {principal.name} does not allow {what}")
