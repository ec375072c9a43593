"""The sockets at which the API listens, and what every connection passes: TLS, and the rules for clients."""

import contextlib
import grp
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from appliance.api.access import principal_of
from appliance.api.router import ENGINE_VERSION, NEWEST, dotted
from appliance.config import Config, Rule, parse_rule
from appliance.engine.sockets.api_dialer import ApiConnection
from appliance.errors import InvalidParameter
from appliance.http import (
    ClientLimits,
    DatedHeaders,
    Handler,
    Readiness,
    TlsFront,
    accept_connections,
    refuse_other_sites,
    serve_connection,
)
from appliance.http.listener import BACKLOG, serve_one

log = logging.getLogger("vchd")
# Header fields of every answer. The Docker CLI reads the operating system out of Server, which has to look like dockerd's.
_FIXED_HEADERS = (
    f"Api-Version: {dotted(NEWEST)}\r\nOstype: linux\r\nServer: Docker/{ENGINE_VERSION} (linux)\r\n".encode()
)


@contextlib.asynccontextmanager
async def api_listens(
    config: Config, router: Handler, mounts: trio.MemoryReceiveChannel[ApiConnection]
) -> AsyncIterator[None]:
    """Accept API connections on all hosts of the configuration, and from `mounts` of containers, until the block ends.

    InvalidParameter or OSError says why not.
    """
    async with trio.open_nursery() as nursery:
        rules = [parse_rule(text) for text in config.tls_allow]
        front = _tls_front(config)
        listeners = [_listen(host) for host in config.hosts]
        readiness, limits = Readiness(), ClientLimits()
        nursery.start_soon(readiness.run)
        nursery.start_soon(limits.run)
        serve = partial(
            serve_connection, common_headers=DatedHeaders(_FIXED_HEADERS), readiness=readiness, limits=limits
        )
        for listener, host in zip(listeners, config.hosts, strict=True):
            if listener.family == socket.AF_UNIX:
                # No browser can connect.
                handle = partial(serve, handler=router)
            elif front is None:
                handle = partial(serve, handler=refuse_other_sites(router, _names_of(host)))
            else:
                handle = partial(_serve_secured, serve, front, rules, refuse_other_sites(router, None))
            nursery.start_soon(_accept, listener, handle, nursery)
        nursery.start_soon(_accept_mounts, mounts, partial(serve, handler=router), nursery)
        if config.pidfile is not None:
            config.pidfile.write_text(str(os.getpid()))
        log.info("API listens on %s", ", ".join(config.hosts))
        yield
        nursery.cancel_scope.cancel()
        for listener, host in zip(listeners, config.hosts, strict=True):
            listener.close()
            if host.startswith("unix://"):
                Path(host.removeprefix("unix://")).unlink(missing_ok=True)
        if config.pidfile is not None:
            config.pidfile.unlink(missing_ok=True)


def _listen(host: str) -> socket.socket:
    """Bind unix:///path or tcp://address:port."""
    kind, _, rest = host.partition("://")
    if kind == "unix":
        path = Path(rest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        old = os.umask(0o117)
        try:
            listener.bind(str(path))
            # At once: a client that sees the file may connect.
            listener.listen(BACKLOG)
        finally:
            os.umask(old)
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam("docker").gr_gid)
    elif kind == "tcp":
        address, _, port = rest.rpartition(":")
        if not port.isdigit():
            raise InvalidParameter(f"invalid -H {host}: expected tcp://address:port")
        listener = socket.create_server((address or "127.0.0.1", int(port)), backlog=BACKLOG)
    else:
        raise InvalidParameter(f"invalid -H {host}: expected unix:///path or tcp://address:port")
    listener.setblocking(False)
    return listener


def _tls_front(config: Config) -> TlsFront | None:
    """TLS for TCP connections, None without TLS. InvalidParameter when a certificate or key is not usable."""
    if not config.tls and not config.tlsverify:
        for host in config.hosts:
            if host.startswith("tcp://"):
                log.warning(
                    "API at %s without TLS: every client there has the rights of root on this host (see --tlsverify)",
                    host,
                )
        return None
    return TlsFront(config.tlscert, config.tlskey, config.tlscacert if config.tlsverify else None)


def _names_of(host: str) -> list[str]:
    """The names under which clients may ask for a server at tcp://host:port, beside its addresses."""
    return [host.removeprefix("tcp://").rpartition(":")[0], socket.gethostname()]


async def _serve_secured(
    serve: Callable[..., Awaitable[None]],
    front: TlsFront,
    rules: Sequence[Rule],
    handler: Handler,
    connection: trio.socket.SocketType,
) -> None:
    async with front.opened(connection) as found:
        if found is not None:
            plain, peer = found
            await serve(plain, handler, principal=principal_of(peer, rules))


async def _accept(
    listener: socket.socket, serve: Callable[[trio.socket.SocketType], Awaitable[None]], nursery: trio.Nursery
) -> None:
    await accept_connections(trio.socket.from_stdlib_socket(listener), serve, nursery, name="API")


async def _accept_mounts(
    mounts: trio.MemoryReceiveChannel[ApiConnection], serve: Callable[..., Awaitable[None]], nursery: trio.Nursery
) -> None:
    """Serve the connections of programs in containers."""
    async with mounts:
        async for mount in mounts:
            principal = mount.principal
            nursery.start_soon(serve_one, mount.socket, partial(serve, principal=principal), f"API of {principal.name}")
