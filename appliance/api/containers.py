"""Routes under /containers."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import trio

from appliance.api.attach import MULTIPLEXED, RAW, pump
from appliance.api.backend import Container, ContainerBackend, NetworkBackend
from appliance.api.container_filters import container_filter, parse_container_filters
from appliance.api.containerconfig import decode_config
from appliance.api.endpoints import decode_endpoints
from appliance.api.fields import CONFIG, HOST, decode, fold_names
from appliance.api.filters import matches_label_filters, parse_filters
from appliance.api.hostconfig import check_host_config, decode_host_config
from appliance.api.logs import LogQuery, render, send_logs
from appliance.api.router import Route
from appliance.api.shapes import inspect_container, list_container
from appliance.api.times import parse_time
from appliance.container.fields import Update
from appliance.container.go_json import fold
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import Created, Exited
from appliance.errors import Conflict, InvalidParameter, NotFound, Unsupported
from appliance.http import HijackedStream, Reply, Request, WebSocketStream
from appliance.image.platform import parse_platform
from appliance.image.store import ImageStore
from appliance.logdrivers import driver_named
from appliance.streams.detach import parse_keys

_UPDATABLE = frozenset(field.name for field in HOST.values() if field.update is not Update.NO)


class ContainerRoutes:
    def __init__(self, backend: ContainerBackend, networks: NetworkBackend, images: ImageStore) -> None:
        self._backend = backend
        self._networks = networks
        self._images = images

    def routes(self) -> dict[tuple[str, str], Route]:
        name = "/containers/{name}"
        return {
            ("GET", "/containers/json"): self.list_all,
            ("POST", "/containers/create"): self.create,
            ("GET", f"{name}/json"): self.inspect,
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
            ("POST", "/containers/prune"): self.prune,
            ("POST", f"{name}/attach"): self.attach,
            ("GET", f"{name}/attach/ws"): self.attach_websocket,
            ("GET", f"{name}/logs"): self.logs,
            ("DELETE", name): self.remove,
            ("DELETE", f"{name}/{{alias}}"): self.unlink,
        }

    # -- reading --------------------------------------------------------------------------------------------------

    async def list_all(self, request: Request, reply: Reply) -> None:
        filters = parse_container_filters(request)
        limit = request.number("limit") or 0
        everything = request.flag("all") or limit > 0 or "status" in filters
        found = [c for c in self._backend.all() if (everything or c.running or c.restarting) and not c.removed]
        if filters:
            keep = container_filter(filters, self._backend, self._networks, self._images)
            found = [container for container in found if keep(container)]
        found.sort(key=lambda container: container.record.created, reverse=True)
        if limit > 0:
            found = found[:limit]
        now, version = time.time_ns(), request.version
        # Encoded one by one: a thousand shapes alive at once cost the garbage collector more than all the encoding.
        encode = msgspec.json.Encoder().encode
        shapes = [
            encode(
                list_container(one, self._networks, version, now)
                | (await self._sizes(one) if request.flag("size") else {})
            )
            for one in found
        ]
        await reply.raw(200, b"application/json", b"[" + b",".join(shapes) + b"]\n")

    async def inspect(self, request: Request, reply: Reply) -> None:
        container = self._backend.get(request.path["name"])
        shape = inspect_container(container, self._networks, request.version)
        shape["ExecIDs"] = self._backend.execs_of(container.id) or None
        if request.flag("size"):
            shape |= await self._sizes(container)
        await reply.json(200, shape)

    async def _sizes(self, container: Container) -> dict[str, int]:
        used = await self._backend.disk_used(container.id)
        return {"SizeRw": used, "SizeRootFs": used + self._images.size(self._images.get(container.record.image_id))}

    # -- changing -------------------------------------------------------------------------------------------------

    async def create(self, request: Request, reply: Reply) -> None:
        body = await request.json()
        if not isinstance(body, dict):
            raise InvalidParameter("config cannot be empty in order to create a container")
        fold_names(body, (*CONFIG, "HostConfig", "NetworkingConfig"))
        if not body.get("Image"):
            raise InvalidParameter(
                "no image specified: config cannot be empty in order to create a container"
                if not body
                else "invalid reference format"
            )
        host = body.pop("HostConfig", None) or {}
        networking = body.pop("NetworkingConfig", None) or {}
        if not isinstance(host, dict) or not isinstance(networking, dict):
            raise InvalidParameter("invalid JSON: HostConfig is not an object")
        fold_names(networking, ("EndpointsConfig",))
        endpoints, endpoint_warnings = decode_endpoints(networking.get("EndpointsConfig") or {})
        if len(endpoints) > 1 and request.version < (1, 44):
            raise InvalidParameter(
                f"Container cannot be connected to network endpoints: {', '.join(sorted(endpoints))}"
            )
        config, config_warnings = decode_config(body)
        host_config, host_warnings = decode_host_config(host)
        warnings = config_warnings + host_warnings + endpoint_warnings
        warnings += self._backend.check_platform(config.image, parse_platform(request.text("platform")))
        container = await self._backend.create(request.text("name"), config, host_config, endpoints)
        await reply.json(201, {"Id": container.id, "Warnings": warnings})

    async def start(self, request: Request, reply: Reply) -> None:
        await self._backend.start(
            request.path["name"],
            by_user=True,
            checkpoint=request.text("checkpoint"),
            directory=request.text("checkpoint-dir"),
        )
        await reply.empty(204)

    async def stop(self, request: Request, reply: Reply) -> None:
        timeout = request.number("t")
        await self._backend.stop(request.path["name"], signal=request.text("signal"), timeout=timeout)
        await reply.empty(204)

    async def restart(self, request: Request, reply: Reply) -> None:
        timeout = request.number("t")
        await self._backend.restart(request.path["name"], signal=request.text("signal"), timeout=timeout)
        await reply.empty(204)

    async def kill(self, request: Request, reply: Reply) -> None:
        name = request.path["name"]
        try:
            await self._backend.kill(name, request.text("signal"))
        except NotFound as error:
            raise NotFound(f"cannot kill container: {name}: {error}") from error
        await reply.empty(204)

    async def pause(self, request: Request, reply: Reply) -> None:
        await self._backend.pause(request.path["name"])
        await reply.empty(204)

    async def unpause(self, request: Request, reply: Reply) -> None:
        await self._backend.unpause(request.path["name"])
        await reply.empty(204)

    async def rename(self, request: Request, reply: Reply) -> None:
        await self._backend.rename(request.path["name"], request.text("name"))
        await reply.empty(204)

    async def remove(self, request: Request, reply: Reply) -> None:
        if request.flag("link"):
            raise InvalidParameter(f"a link is named by its container and its alias: {request.path['name']}/ALIAS")
        volumes = request.flag("v")
        await self._backend.remove(request.path["name"], force=request.flag("force"), volumes=volumes)
        await reply.empty(204)

    async def unlink(self, request: Request, reply: Reply) -> None:
        if not request.flag("link"):
            await reply.json(404, {"message": "page not found"})
            return
        await self._backend.unlink(request.path["name"], request.path["alias"])
        await reply.empty(204)

    async def update(self, request: Request, reply: Reply) -> None:
        body = await request.json()
        if not isinstance(body, dict):
            raise InvalidParameter("invalid JSON: an update is an object")
        fold(body, HostConfig)
        unknown = {name for name, value in body.items() if value} - _UPDATABLE
        if unknown:
            raise InvalidParameter(f"{', '.join(sorted(unknown))} cannot be updated")
        wanted, warnings = decode(body, HostConfig)
        await self._backend.update(request.path["name"], wanted, check_host_config)
        await reply.json(200, {"Warnings": warnings or None})

    async def prune(self, request: Request, reply: Reply) -> None:
        filters = parse_filters(request.text("filters"), frozenset(("label", "label!", "until")))
        if len(filters.get("until", ())) > 1:
            raise InvalidParameter("more than one until filter specified")
        until = parse_time(filters["until"][0], now=time.time_ns()) if filters.get("until") else None
        deleted: list[str] = []
        space = 0
        for container in self._backend.all():
            labels = container.record.config.labels or {}
            if (
                container.restarting
                or not isinstance(container.state, Created | Exited)
                or (until is not None and container.record.created >= until)
                or not matches_label_filters(filters, labels)
            ):
                continue
            try:
                size = await self._backend.disk_used(container.id)
                await self._backend.remove(container.id, force=False)
            except (Conflict, NotFound, OSError):
                continue  # it was started or removed meanwhile
            deleted.append(container.id)
            space += size
        self._backend.pruned(space)
        await reply.json(200, {"ContainersDeleted": deleted or None, "SpaceReclaimed": space})

    async def resize(self, request: Request, reply: Reply) -> None:
        rows, columns = request.number("h"), request.number("w")
        if rows is None or columns is None or not (0 <= rows < 1 << 16 and 0 <= columns < 1 << 16):
            raise InvalidParameter("invalid size: h and w are 0 to 65535")
        await self._backend.resize(request.path["name"], rows, columns)
        await reply.empty(200)

    async def wait(self, request: Request, reply: Reply) -> None:
        condition = request.text("condition") if request.version >= (1, 30) else ""
        container, met = self._backend.wait(request.path["name"], condition)
        async with request.while_connected():
            # Subscribed; the head goes at once, the CLI starts the container only then.
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

    # -- streams --------------------------------------------------------------------------------------------------

    @staticmethod
    def _streams(request: Request, tty: bool) -> frozenset[int]:
        wanted = {number for number, name in ((1, "stdout"), (2, "stderr")) if request.flag(name)}
        # A terminal has one stream, whichever was asked for.
        return frozenset({1} if tty and wanted else wanted)

    async def attach(self, request: Request, reply: Reply) -> None:
        tty = self._backend.get(request.path["name"]).tty
        upgrade = "upgrade" in request.headers
        kind = MULTIPLEXED if upgrade and not tty and request.version >= (1, 42) else RAW
        await self._attach(request, lambda: reply.hijack(kind, upgrade), framed=not tty)

    async def attach_websocket(self, request: Request, reply: Reply) -> None:
        """The same for who cannot hijack; output is not told apart there."""
        await self._attach(request, lambda: reply.websocket(request, binary=request.version >= (1, 28)), framed=False)

    async def _attach(
        self,
        request: Request,
        take: Callable[[], AbstractAsyncContextManager[HijackedStream | WebSocketStream]],
        *,
        framed: bool,
    ) -> None:
        container = self._backend.get(request.path["name"])
        keys = parse_keys(request.text("detachKeys"))
        streams = self._streams(request, container.tty)
        stdin = request.flag("stdin") and container.record.config.open_stdin
        past: list[bytes] = []
        if request.flag("logs") and streams:
            log = container.open_log()
            past = list(render(log, LogQuery(streams), log.first, log.entries, framed=framed and log.framed))
        self._backend.attached(request.path["name"])
        attachment = container.fanout.attach(streams) if request.flag("stream") and streams else None
        try:
            async with take() as stream:
                await pump(
                    stream,
                    attachment,
                    tty=container.tty,
                    stdin=container.stdin if stdin and request.flag("stream") else None,
                    closes_stdin=container.record.config.stdin_once and not container.tty,
                    keys=keys,
                    past=past,
                    framed=framed,
                )
        finally:
            if attachment is not None:
                attachment.close()

    async def logs(self, request: Request, reply: Reply) -> None:
        container = self._backend.get(request.path["name"])
        if not (request.flag("stdout") or request.flag("stderr")):
            raise InvalidParameter("Bad parameters: you must choose at least one stream")
        if not driver_named(container.record.log_driver).readable:
            raise Unsupported("configured logging driver does not support reading")
        tail = request.text("tail")
        query = LogQuery(
            streams=self._streams(request, container.tty),
            follow=request.flag("follow"),
            tail=int(tail) if tail.isdigit() else None,
            since=parse_time(request.text("since")),
            until=parse_time(request.text("until")),
            timestamps=request.flag("timestamps"),
        )
        kind = MULTIPLEXED if not container.tty and request.version >= (1, 42) else RAW
        await reply.start(kind)
        if not query.follow:
            await send_logs(reply, container, query)
            return
        async with request.while_connected():
            with trio.move_on_after(_seconds_until(query.until)):
                await send_logs(reply, container, query)


def _seconds_until(time_ns: int | None) -> float:
    return float("inf") if time_ns is None else max(0.0, (time_ns - time.time_ns()) / 1e9)
