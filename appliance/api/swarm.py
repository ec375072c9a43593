"""Routes of swarms, which there are none of: vSphere is the cluster. Answers are those of a dockerd that is in no swarm."""

from appliance.api.router import Route
from appliance.errors import Unsupported
from appliance.http import Reply, Request

_NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and '
    "try again."
)
_NOUNS = ("nodes", "services", "tasks", "secrets", "configs")


class SwarmRoutes:
    def routes(self) -> dict[tuple[str, str], Route]:
        table: dict[tuple[str, str], Route] = {
            ("GET", "/swarm"): self.no_manager,
            ("POST", "/swarm/leave"): self.leave,
            ("POST", "/swarm/init"): self.refuse,
            ("POST", "/swarm/join"): self.refuse,
            ("POST", "/swarm/update"): self.no_manager,
            ("POST", "/swarm/unlock"): self.no_manager,
            ("GET", "/swarm/unlockkey"): self.no_manager,
        }
        for noun in _NOUNS:
            table[("GET", f"/{noun}")] = self.no_manager
            table[("POST", f"/{noun}/create")] = self.no_manager
            table[("GET", f"/{noun}/{{name}}")] = self.no_manager
            table[("DELETE", f"/{noun}/{{name}}")] = self.no_manager
        return table

    async def no_manager(self, request: Request, reply: Reply) -> None:
        await reply.json(503, {"message": _NO_MANAGER})

    async def leave(self, request: Request, reply: Reply) -> None:
        await reply.json(503, {"message": "This node is not part of a swarm"})

    async def refuse(self, request: Request, reply: Reply) -> None:
        raise Unsupported("swarms are not supported: the cluster is the hypervisor's")
