"""Routes under /containers/{name}/exec and /exec."""

from typing import Any

import msgspec

from appliance.api.attach import MULTIPLEXED, RAW, pump
from appliance.api.backend import Exec, ExecBackend
from appliance.api.fields import read_struct
from appliance.api.router import Route
from appliance.container.exec_config import ExecConfig
from appliance.container.fields import Int64
from appliance.container.go_json import convert, fold
from appliance.errors import InvalidParameter, VchError
from appliance.http import Reply, Request
from appliance.streams import stdcopy
from appliance.streams.detach import parse_keys


class ExecStartRequest(msgspec.Struct, kw_only=True, rename="pascal"):
    """Docker's ExecStartConfig. `tty`: whether the client reads the output as it is, without frames."""

    detach: bool = False
    tty: bool = False
    console_size: list[Int64] | None = None


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
        config = _decode(body)
        if config.detach_keys:
            parse_keys(config.detach_keys)
        one = await self._backend.create(request.path["name"], config)
        await reply.json(201, {"Id": one.id})

    async def start(self, request: Request, reply: Reply) -> None:
        """POST /exec/{id}/start: hijack the connection, unless the exec starts detached."""
        wanted = await read_struct(request, ExecStartRequest, "an exec's start is an object")
        one = self._backend.get(request.path["id"])
        _take_size(wanted.console_size, one)
        if wanted.detach:
            await self._backend.start(one.id)
            await reply.empty(200)
            return
        keys = parse_keys(one.config.detach_keys)
        streams = frozenset(
            number for number, wanted in ((1, one.config.attach_stdout), (2, one.config.attach_stderr)) if wanted
        )
        if one.tty and streams:
            streams = frozenset({1})
        upgrade = "upgrade" in request.headers
        # As moby: the Tty of this request, not of the exec, decides whether output is framed.
        framed = not wanted.tty
        kind = MULTIPLEXED if upgrade and framed and request.version >= (1, 42) else RAW
        # Attach before the start: no output may be lost.
        attachment = one.fanout.attach(streams)
        try:
            async with reply.hijack(kind, upgrade) as stream:
                try:
                    await self._backend.start(one.id)
                except VchError as error:
                    text = f"{error}\r\n".encode()
                    await stream.send(text if not framed else stdcopy.header(1, len(text)) + text)
                    await stream.end()
                    return
                await pump(
                    stream,
                    attachment,
                    tty=one.tty,
                    stdin=one.stdin if one.config.attach_stdin else None,
                    closes_stdin=not one.tty,
                    keys=keys,
                    past=None,
                    framed=framed,
                )
        finally:
            attachment.close()

    async def resize(self, request: Request, reply: Reply) -> None:
        """POST /exec/{id}/resize."""
        rows, columns = request.number("h"), request.number("w")
        if rows is None or columns is None or not (0 <= rows < 1 << 16 and 0 <= columns < 1 << 16):
            raise InvalidParameter("invalid size: h and w are 0 to 65535")
        await self._backend.resize(request.path["id"], rows, columns)
        await reply.empty(200)

    async def inspect(self, request: Request, reply: Reply) -> None:
        """GET /exec/{id}/json."""
        one = self._backend.get(request.path["id"])
        command, *arguments = one.command
        process: dict[str, Any] = {
            "tty": one.tty,
            "entrypoint": command,
            "arguments": arguments,
            "privileged": one.config.privileged,
        }
        if one.config.user:
            process["user"] = one.config.user
        await reply.json(
            200,
            {
                "ID": one.id,
                "Running": one.running,
                "ExitCode": one.exit_code,
                "ProcessConfig": process,
                "OpenStdin": one.config.attach_stdin,
                "OpenStderr": one.config.attach_stderr,
                "OpenStdout": one.config.attach_stdout,
                "CanRemove": False,
                "ContainerID": one.container.id,
                "DetachKeys": one.config.detach_keys,
                "Pid": one.pid,
            },
        )


def _decode(body: dict[str, Any]) -> ExecConfig:
    """InvalidParameter names the first field that has the wrong type. As in Docker, unknown fields have no effect."""
    fold(body, ExecConfig)
    config = convert(body, ExecConfig)
    if any("\0" in text for text in (*(config.cmd or ()), *(config.env or ()), config.user, config.working_dir)):
        raise InvalidParameter("invalid JSON: a string contains NUL")
    return config


def _take_size(given: list[Int64] | None, one: Exec) -> None:
    """ConsoleSize is [height, width]."""
    size = given or one.config.console_size
    if size is None:
        return
    if len(size) != 2 or not all(0 <= number < 1 << 16 for number in size):
        raise InvalidParameter("invalid ConsoleSize: [height, width]")
    one.size = (size[0], size[1])
