"""Routes for the output and input of containers: attach and logs."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager

import trio

from appliance.api.attach import MULTIPLEXED, RAW, pump
from appliance.api.backend import ContainerBackend, ContainerRegistry
from appliance.api.logs import LogQuery, render, send_logs
from appliance.api.router import Route
from appliance.api.times import parse_time
from appliance.container.container_record import ContainerRecord
from appliance.errors import InvalidParameter, Unsupported
from appliance.http import HijackedStream, Reply, Request, WebSocketStream
from appliance.logdrivers import LogDriver, details_prefix, driver_named
from appliance.streams.detach import parse_keys
from appliance.streams.logfile import Place


class StreamRoutes:
    """Live output and input, and stored output."""

    def __init__(self, registry: ContainerRegistry, containers: ContainerBackend) -> None:
        self._registry = registry
        self._containers = containers

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        name = "/containers/{name}"
        return {
            ("POST", f"{name}/attach"): self.attach,
            ("GET", f"{name}/attach/ws"): self.attach_websocket,
            ("GET", f"{name}/logs"): self.logs,
        }

    @staticmethod
    def _streams(request: Request, tty: bool) -> frozenset[int]:
        wanted = {number for number, name in ((1, "stdout"), (2, "stderr")) if request.flag(name)}
        # A terminal has only stdout, whichever stream the client wants.
        return frozenset({1} if tty and wanted else wanted)

    async def attach(self, request: Request, reply: Reply) -> None:
        """POST /containers/{name}/attach: hijack the connection."""
        tty = self._registry.get(request.path["name"]).tty
        upgrade = "upgrade" in request.headers
        kind = MULTIPLEXED if upgrade and not tty and request.version >= (1, 42) else RAW
        await self._attach(request, lambda: reply.hijack(kind, upgrade), framed=not tty)

    async def attach_websocket(self, request: Request, reply: Reply) -> None:
        """GET /containers/{name}/attach/ws: attach by WebSocket, with stdout and stderr mixed."""
        await self._attach(request, lambda: reply.websocket(request, binary=request.version >= (1, 28)), framed=False)

    async def _attach(
        self,
        request: Request,
        take: Callable[[], AbstractAsyncContextManager[HijackedStream | WebSocketStream]],
        *,
        framed: bool,
    ) -> None:
        container = self._registry.get(request.path["name"])
        keys = parse_keys(request.text("detachKeys"))
        streams = self._streams(request, container.tty)
        stdin = request.flag("stdin") and container.record.config.open_stdin
        past: AsyncGenerator[bytes, None] | None = None
        if request.flag("logs") and streams:
            log = container.open_log()
            past = render(log, LogQuery(streams), Place(log.first), log.entries, framed=framed and log.framed)
        self._containers.attached(request.path["name"])
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
        """GET /containers/{name}/logs."""
        container = self._registry.get(request.path["name"])
        if not (request.flag("stdout") or request.flag("stderr")):
            raise InvalidParameter("Bad parameters: you must choose at least one stream")
        driver = driver_named(container.record.log_driver)
        if not driver.readable:
            raise Unsupported("configured logging driver does not support reading")
        tail = request.text("tail")
        query = LogQuery(
            streams=self._streams(request, container.tty),
            follow=request.flag("follow"),
            tail=int(tail) if tail.isdigit() else None,
            since=parse_time(request.text("since")),
            until=parse_time(request.text("until")),
            timestamps=request.flag("timestamps"),
            details=await _details(driver, container.record) if request.flag("details") else b"",
        )
        kind = MULTIPLEXED if not container.tty and request.version >= (1, 42) else RAW
        await reply.start(kind)
        if not query.follow:
            await send_logs(reply, container, query)
            return
        async with request.while_connected():
            with trio.move_on_after(_seconds_until(query.until)):
                await send_logs(reply, container, query)


async def _details(driver: LogDriver, record: ContainerRecord) -> bytes:
    # A thread, since a client's regular expressions select the attributes.
    return details_prefix(await trio.to_thread.run_sync(driver.attributes, record))


def _seconds_until(time_ns: int | None) -> float:
    return float("inf") if time_ns is None else max(0.0, (time_ns - time.time_ns()) / 1e9)
