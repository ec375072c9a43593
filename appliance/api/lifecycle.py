"""Routes under /containers/{name} that change a container: start, stop, kill, pause, rename, update, and wait."""

from functools import partial
from typing import Any

import msgspec

from appliance.api.backend import ContainerBackend, SignalBackend, UpdateBackend
from appliance.api.fields import HOST, decode
from appliance.api.host_config_checks import check_host_config
from appliance.api.router import Route
from appliance.container.fields import Decision, Update
from appliance.container.go_json import fold
from appliance.container.host_config import HostConfig
from appliance.errors import InvalidParameter, NotFound
from appliance.http import Reply, Request

_NOT_UPDATABLE = frozenset(
    field.name for field in HOST.values() if field.update is Update.NO and field.decision is not Decision.REFUSED
)


class LifecycleRoutes:
    """Changes of one container."""

    def __init__(self, containers: ContainerBackend, signals: SignalBackend, updates: UpdateBackend) -> None:
        self._containers = containers
        self._signals = signals
        self._updates = updates

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        name = "/containers/{name}"
        return {
            ("POST", f"{name}/start"): self.start,
            ("POST", f"{name}/stop"): self.stop,
            ("POST", f"{name}/restart"): self.restart,
            ("POST", f"{name}/kill"): self.kill,
            ("POST", f"{name}/pause"): self.pause,
            ("POST", f"{name}/unpause"): self.unpause,
            ("POST", f"{name}/wait"): self.wait,
            ("POST", f"{name}/resize"): self.resize,
            ("POST", f"{name}/rename"): self.rename,
            ("POST", f"{name}/update"): self.update,
            ("DELETE", f"{name}/{{alias}}"): self.unlink,
        }

    async def start(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/start."""
        await self._containers.start(
            request.path["name"],
            by_user=True,
            checkpoint=request.text("checkpoint"),
            directory=request.text("checkpoint-dir"),
        )
        await reply.empty(204)

    async def stop(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/stop."""
        timeout = request.number("t")
        await self._signals.stop(request.path["name"], signal=request.text("signal"), timeout=timeout)
        await reply.empty(204)

    async def restart(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/restart."""
        timeout = request.number("t")
        await self._containers.restart(request.path["name"], signal=request.text("signal"), timeout=timeout)
        await reply.empty(204)

    async def kill(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/kill."""
        name = request.path["name"]
        try:
            await self._signals.kill(name, request.text("signal"))
        except NotFound as error:
            raise NotFound(f"cannot kill container: {name}: {error}") from error
        await reply.empty(204)

    async def pause(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/pause."""
        await self._signals.pause(request.path["name"])
        await reply.empty(204)

    async def unpause(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/unpause."""
        await self._signals.unpause(request.path["name"])
        await reply.empty(204)

    async def rename(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/rename."""
        await self._containers.rename(request.path["name"], request.text("name"))
        await reply.empty(204)

    async def unlink(self, request: Request, reply: Reply) -> None:
        """DELETE /containers/{name}/{alias}?link=1: remove a link."""
        if not request.flag("link"):
            await reply.json(404, {"message": "page not found"})
            return
        await self._containers.unlink(request.path["name"], request.path["alias"])
        await reply.empty(204)

    async def update(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/update."""
        body = await request.json()
        if not isinstance(body, dict):
            raise InvalidParameter("invalid JSON: an update is an object")
        fold(body, HostConfig)
        ignored = {name: value for name, value in body.items() if name in _NOT_UPDATABLE}
        wanted, warnings = decode({name: value for name, value in body.items() if name not in ignored}, HostConfig)
        warnings += [f"{name} cannot be updated and was ignored" for name, value in ignored.items() if value]
        check = partial(check_host_config, cpus=await self._updates.cpus())
        await self._updates.update(request.path["name"], wanted, check)
        await reply.json(200, {"Warnings": warnings or None})

    async def resize(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/resize."""
        rows, columns = request.number("h"), request.number("w")
        if rows is None or columns is None or not (0 <= rows < 1 << 16 and 0 <= columns < 1 << 16):
            raise InvalidParameter("invalid size: h and w are 0 to 65535")
        await self._signals.resize(request.path["name"], rows, columns)
        await reply.empty(200)

    async def wait(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/wait: answer when the container stops, or `condition` holds."""
        condition = request.text("condition") if request.version >= (1, 30) else ""
        container, met = self._containers.wait(request.path["name"], condition)
        async with request.while_connected():
            # The head goes at once: the CLI starts the container only when it has the head.
            await reply.start("application/json")
            while not met():
                await container.changed.wait()
        code = container.record.exit_code
        answer: dict[str, Any] = {"StatusCode": code}
        if request.version < (1, 42):
            answer = {"Error": None, "StatusCode": code}
        if container.record.error and condition != "removed":
            answer["Error"] = {"Message": container.record.error}
        await reply.write(msgspec.json.encode(answer) + b"\n")
