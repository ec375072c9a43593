"""The one accept loop: API, name servers, guests and published ports take their connections with it."""

import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

log = logging.getLogger(__name__)

# Connections that the kernel holds until we accept them. (It takes the lesser of this and net.core.somaxconn.)
BACKLOG = 512
# Without descriptors a connection stays in the backlog: `accept` fails again at once.
_PAUSE_SECONDS = 0.1

Serve = Callable[[trio.socket.SocketType], Awaitable[None]]


async def open_tcp_listener(address: str, port: int, device: str = "") -> trio.socket.SocketType:
    """Listen at an IPv4 or IPv6 address. With `device`, only packets that come in through this interface are seen.

    OSError when the port is taken, or the address or the interface does not exist.
    """
    listener = trio.socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if device:
            bind_to_device(listener, device)
        await listener.bind((address, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def bind_to_device(sock: trio.socket.SocketType, device: str) -> None:
    """See only packets of this interface (socket(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")


def send_at_once(connection: trio.socket.SocketType) -> None:
    """Send small pieces at once on a TCP connection, as Go's net does: else a piece waits 40 ms for the peer's delayed acknowledgement."""
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):  # The peer is gone already.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def serve_one(connection: trio.socket.SocketType, serve: Serve, name: str) -> None:
    """Serve a connection, and close it when `serve` returns, unless `serve` has detached its descriptor.

    An exception of `serve` ends this connection only, and is logged under `name`.
    """
    try:
        with connection:
            await serve(connection)
    except Exception:
        log.exception("%s: a connection failed", name)


async def accept_connections(
    listener: trio.socket.SocketType, serve: Serve, nursery: trio.Nursery, *, name: str, limit: int | None = None
) -> NoReturn:
    """Accept connections until cancelled, then close the listener. `nursery` owns one task per connection.

    See serve_one. While `limit` connections are served, further ones are closed at once.
    """
    served = 0

    async def serve_counted(connection: trio.socket.SocketType) -> None:
        nonlocal served
        try:
            await serve_one(connection, serve, name)
        finally:
            served -= 1

    with listener:
        while True:
            try:
                connection, _ = await listener.accept()
            except OSError as error:
                # Open connections give their descriptors back when they end.
                log.error("%s: accept: %s", name, error)
                await trio.sleep(_PAUSE_SECONDS)
                continue
            if limit is not None and served >= limit:
                connection.close()
                continue
            send_at_once(connection)
            served += 1
            nursery.start_soon(serve_counted, connection)
