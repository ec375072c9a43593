"""The daemon's own API as the end of a socket mount: connections reach its HTTP server without a socket file."""

from dataclasses import dataclass

import trio

from appliance.roles import Principal


@dataclass(frozen=True, slots=True)
class ApiConnection:
    """A connection that the HTTP server has to serve for `principal`. The server owns the socket."""

    socket: trio.socket.SocketType
    principal: Principal


class ApiDialer:
    """A Dialer whose connections go to the HTTP server that takes them out of the channel. Their client is `principal`."""

    def __init__(self, server: trio.MemorySendChannel[ApiConnection], principal: Principal) -> None:
        self._server = server
        self._principal = principal

    async def dial(self, uid: int, gid: int) -> trio.SocketStream:
        """See Dialer. The mode of the socket in the container decides which of its users may connect. Waits until the server serves."""
        ours, theirs = trio.socket.socketpair()
        try:
            await self._server.send(ApiConnection(theirs, self._principal))
        except BaseException as error:
            ours.close()
            theirs.close()
            if isinstance(error, trio.BrokenResourceError):
                raise ConnectionRefusedError("the API has ended") from error
            raise
        return trio.SocketStream(ours)
