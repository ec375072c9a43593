"""Routes under /containers/{name}/checkpoints. The CLI has the commands only if the daemon reports that it is experimental."""

from appliance.api.backend import CheckpointBackend
from appliance.api.router import Route
from appliance.errors import InvalidParameter
from appliance.http import Reply, Request


class CheckpointRoutes:
    """Saved states of running containers."""

    def __init__(self, backend: CheckpointBackend) -> None:
        self._backend = backend

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        path = "/containers/{name}/checkpoints"
        return {
            ("GET", path): self.list,
            ("POST", path): self.create,
            ("DELETE", f"{path}/{{checkpoint}}"): self.remove,
        }

    async def list(self, request: Request, reply: Reply) -> None:
        """GET /containers/{name}/checkpoints."""
        names = await self._backend.list(request.path["name"], request.text("dir"))
        await reply.json(200, [{"Name": name} for name in names])

    async def create(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/checkpoints."""
        body = await request.json()
        if not isinstance(body, dict):
            raise InvalidParameter("invalid JSON: a checkpoint is an object")
        checkpoint, directory = body.get("CheckpointID") or "", body.get("CheckpointDir") or ""
        if not isinstance(checkpoint, str) or not isinstance(directory, str):
            raise InvalidParameter("invalid JSON: CheckpointID and CheckpointDir are strings")
        await self._backend.create(request.path["name"], checkpoint, directory, leave_running=not body.get("Exit"))
        await reply.empty(201)

    async def remove(self, request: Request, reply: Reply) -> None:
        """DELETE /containers/{name}/checkpoints/{checkpoint}."""
        await self._backend.remove(request.path["name"], request.path["checkpoint"], request.text("dir"))
        await reply.empty(204)
