"""Routes under /containers/{name}/exec and /exec."""

from typing import Any

from appliance.api.attach import MULTIPLEXED, RAW, pump
from appliance.api.backend import Exec, ExecBackend
from appliance.api.fields import fold_names
from appliance.api.router import Route
from appliance.errors import InvalidParameter, VchError
from appliance.http import Reply, Request
from appliance.streams import stdcopy
from appliance.streams.detach import parse_keys

_BOOLEANS = ("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "Privileged", "Detach")
_TEXTS = ("User", "WorkingDir", "DetachKeys")
_LISTS = ("Cmd", "Env")


class ExecRoutes:
    """Further processes in running containers."""

    def __init__(self, backend: ExecBackend) -> None:
        self._backend = backend

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {
            ("POST", "/containers/{name}/exec"): self.create,
            ("POST", "/exec/{id}/start"): self.start,
            ("POST", "/exec/{id}/resize"): self.resize,
            ("GET", "/exec/{id}/json"): self.inspect,
        }

    async def create(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/exec."""
        body = await request.json()
        if not isinstance(body, dict):
            raise InvalidParameter("invalid JSON: an exec is an object")
        _check(body)
        if body.get("DetachKeys"):
            parse_keys(body["DetachKeys"])
        one = self._backend.create_exec(request.path["name"], body)
        await reply.json(201, {"Id": one.id})

    async def start(self, request: Request, reply: Reply) -> None:
        """POST /exec/{id}/start: hijack the connection, unless the exec starts detached."""
        body = await request.json()
        if not isinstance(body, dict):
            raise InvalidParameter("invalid JSON: an exec's start is an object")
        fold_names(body, ("Detach", "Tty", "ConsoleSize"))
        one = self._backend.get_exec(request.path["id"])
        _take_size(body, one)
        if body.get("Detach"):
            await self._backend.start_exec(one.id)
            await reply.empty(200)
            return
        keys = parse_keys(one.config.get("DetachKeys") or "")
        streams = frozenset(
            number for number, name in ((1, "AttachStdout"), (2, "AttachStderr")) if one.config.get(name)
        )
        if one.tty and streams:
            streams = frozenset({1})
        upgrade = "upgrade" in request.headers
        # As moby: the Tty of this request, not of the exec, decides whether output is framed.
        framed = not body.get("Tty")
        kind = MULTIPLEXED if upgrade and framed and request.version >= (1, 42) else RAW
        # Attach before the start: no output may be lost.
        attachment = one.fanout.attach(streams)
        try:
            async with reply.hijack(kind, upgrade) as stream:
                try:
                    await self._backend.start_exec(one.id)
                except VchError as error:
                    text = f"{error}\r\n".encode()
                    await stream.send(text if not framed else stdcopy.header(1, len(text)) + text)
                    await stream.end()
                    return
                await pump(
                    stream,
                    attachment,
                    tty=one.tty,
                    stdin=one.stdin if one.config.get("AttachStdin") else None,
                    closes_stdin=not one.tty,
                    keys=keys,
                    past=[],
                    framed=framed,
                )
        finally:
            attachment.close()

    async def resize(self, request: Request, reply: Reply) -> None:
        """POST /exec/{id}/resize."""
        rows, columns = request.number("h"), request.number("w")
        if rows is None or columns is None or not (0 <= rows < 1 << 16 and 0 <= columns < 1 << 16):
            raise InvalidParameter("invalid size: h and w are 0 to 65535")
        await self._backend.resize_exec(request.path["id"], rows, columns)
        await reply.empty(200)

    async def inspect(self, request: Request, reply: Reply) -> None:
        """GET /exec/{id}/json."""
        one = self._backend.get_exec(request.path["id"])
        command, *arguments = one.command
        process: dict[str, Any] = {
            "tty": one.tty,
            "entrypoint": command,
            "arguments": arguments,
            "privileged": bool(one.config.get("Privileged")),
        }
        if one.config.get("User"):
            process["user"] = one.config["User"]
        await reply.json(
            200,
            {
                "ID": one.id,
                "Running": one.running,
                "ExitCode": one.exit_code,
                "ProcessConfig": process,
                "OpenStdin": bool(one.config.get("AttachStdin")),
                "OpenStderr": bool(one.config.get("AttachStderr")),
                "OpenStdout": bool(one.config.get("AttachStdout")),
                "CanRemove": False,
                "ContainerID": one.container.id,
                "DetachKeys": one.config.get("DetachKeys") or "",
                "Pid": one.pid,
            },
        )


def _check(body: dict[str, Any]) -> None:
    """InvalidParameter names the first field that is unknown or has the wrong type."""
    fold_names(body, (*_BOOLEANS, *_TEXTS, *_LISTS, "ConsoleSize", "Container"))
    for name, value in body.items():
        good = (
            value is None
            or (name in _BOOLEANS and isinstance(value, bool))
            or (name in _TEXTS and isinstance(value, str))
            or (name in _LISTS and isinstance(value, list) and all(isinstance(item, str) for item in value))
            or name in ("ConsoleSize", "Container")
        )
        if not good:
            raise InvalidParameter(f"invalid JSON: {name} of an exec is unknown or has the wrong type")
    if any("\0" in text for name in (*_LISTS, *_TEXTS) for text in (body.get(name) or ())):
        raise InvalidParameter("invalid JSON: a string contains NUL")


def _take_size(body: dict[str, Any], one: Exec) -> None:
    """ConsoleSize is [height, width]."""
    size = body.get("ConsoleSize") or one.config.get("ConsoleSize")
    if size is None:
        return
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and 0 <= n < 1 << 16 for n in size)):
        raise InvalidParameter("invalid ConsoleSize: [height, width]")
    one.size = (size[0], size[1])
