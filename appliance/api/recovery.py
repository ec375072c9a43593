"""Holds requests about containers until vchd knows how the runs of an earlier vchd stand.

dockerd with live-restore opens its API only after it has reached all containers. vchd answers at once: VMs take longer to reach, and
a guest that hangs must not hold back requests about other containers.
"""

from collections.abc import Sequence

from appliance.api.backend import Container, ContainerRegistry, ExecBackend
from appliance.api.router import Route
from appliance.errors import VchError
from appliance.http import Reply, Request

# Routes about all containers that look at their states.
_ALL = {("GET", "/containers/json"), ("POST", "/containers/prune")}
_CONTAINER, _EXEC = "/containers/{name}", "/exec/{id}"


class RecoveryGate:
    """See the module. Containers that this vchd started are never waited for."""

    def __init__(self, registry: ContainerRegistry, execs: ExecBackend) -> None:
        self._registry = registry
        self._execs = execs

    def guarded(self, routes: dict[tuple[str, str], Route]) -> dict[tuple[str, str], Route]:
        """The same routes. Those that look at the state of containers wait first until the containers are recovered."""
        return {key: self._after_recovery(key, route) if self._looks(key) else route for key, route in routes.items()}

    @staticmethod
    def _looks(key: tuple[str, str]) -> bool:
        return key in _ALL or key[1].startswith((_CONTAINER, _EXEC))

    def _after_recovery(self, key: tuple[str, str], route: Route) -> Route:
        async def guarded(request: Request, reply: Reply) -> None:
            for container in self._registry.all() if key in _ALL else self._named(key[1], request):
                await container.wait_recovered()
            await route(request, reply)

        return guarded

    def _named(self, path: str, request: Request) -> Sequence[Container]:
        try:
            if path.startswith(_EXEC):
                return (self._execs.get(request.path["id"]).container,)
            return (self._registry.get(request.path["name"]),)
        except VchError:
            # The route answers with the error.
            return ()
