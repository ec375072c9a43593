"""Serves one connection: head, handler, head, handler... until the client, an error or a hijack ends it."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from appliance.errors import ProtocolError
from appliance.http.client_limits import ClientLimits
from appliance.http.connection import Connection, Disconnected
from appliance.http.readiness import Readiness
from appliance.http.reply import Reply
from appliance.http.request import Request
from appliance.roles import LOCAL, Principal

Handler = Callable[[Request, Reply], Awaitable[None]]


async def serve_connection(
    sock: trio.socket.SocketType,
    handler: Handler,
    common_headers: Callable[[], bytes],
    readiness: Readiness,
    limits: ClientLimits,
    principal: Principal = LOCAL,
) -> None:
    """Serve requests of `principal` until the connection ends, then close the socket, unless a handler has detached it.

    `common_headers` returns header lines for an answer.
    """
    connection = Connection(sock, common_headers, readiness, limits)
    fd = sock.fileno()
    with sock:
        readiness.add(fd)
        try:
            await _serve(connection, handler, principal)
            await connection.linger()
        finally:
            # A handler may have detached the descriptor, which then may be closed and name another connection.
            if sock.fileno() == fd:
                readiness.remove(fd)


async def _serve(connection: Connection, handler: Handler, principal: Principal) -> None:
    with suppress(Disconnected):
        while connection.keep_alive:
            try:
                head = await connection.next_head()
            except ProtocolError as error:
                connection.mark_malformed()
                await Reply(connection).json(400, {"message": str(error)})
                return
            if head is None:
                return
            reply = Reply(connection, head_only=head.method == "HEAD", chunked=head.http_version != "1.0")
            await handler(Request(connection, head, principal), reply)
            await reply.finish()
