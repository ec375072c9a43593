"""POST /grpc and /session: connections that BuildKit's clients (buildx, compose, the CLI with BuildKit) take over for HTTP/2.

As dockerd does from API 1.53 on, a connection that begins with HTTP/2 gets BuildKit's API, too (buildctl, any gRPC client).
"""

import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from appliance.api.router import Route
from appliance.errors import InvalidParameter
from appliance.http import Reply, Request

_PROTOCOL = "h2c"
_SESSION_HEADER = "x-docker-expose-session-"


class Carrier(Protocol):
    """The daemon's end of a connection that is about to be taken over."""

    async def carry(self, connection: socket.socket, early: bytes) -> None:
        """Serve the connection until either end closes. Closes it. `early`: bytes that the client has sent already."""


class UpgradeBackend(Protocol):
    """What these routes call. engine.builds.service satisfies it without importing it."""

    def grpc(self) -> AbstractAsyncContextManager[Carrier]:
        """A connection of BuildKit's API. Unavailable when there are too many."""

    def session(self, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Carrier]:
        """A session of a client, to which BuildKit connects; the builder is started if necessary. `headers` describe the session.

        Unavailable when the builder cannot be started, or when there are too many sessions.
        """


class UpgradeRoutes:
    """See the module."""

    def __init__(self, builds: UpgradeBackend) -> None:
        self._builds = builds

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {("POST", "/grpc"): self.grpc, ("POST", "/session"): self.session, ("PRI", "*"): self.http2}

    async def grpc(self, request: Request, reply: Reply) -> None:
        """POST /grpc."""
        _check_protocol(request)
        async with self._builds.grpc() as carrier, reply.upgrade(_PROTOCOL) as stream:
            await carrier.carry(*await stream.detach())

    async def http2(self, request: Request, reply: Reply) -> None:
        """A connection that begins with HTTP/2."""
        async with self._builds.grpc() as carrier:
            await carrier.carry(*await reply.take_over().detach())

    async def session(self, request: Request, reply: Reply) -> None:
        """POST /session."""
        _check_protocol(request)
        headers = {name: value for name, value in request.headers.items() if name.startswith(_SESSION_HEADER)}
        async with self._builds.session(headers) as carrier, reply.upgrade(_PROTOCOL) as stream:
            await carrier.carry(*await stream.detach())


def _check_protocol(request: Request) -> None:
    """Errors in the words of moby (api/server/router/grpc, buildkit session/manager)."""
    protocol = request.headers.get("upgrade", "")
    if not protocol:
        raise InvalidParameter("no upgrade proto in request")
    if protocol != _PROTOCOL:
        raise InvalidParameter(f"protocol {protocol} not supported")
