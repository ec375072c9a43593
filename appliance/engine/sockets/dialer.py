"""Where the connections of a socket mount end."""

from typing import Protocol

import trio


class Dialer(Protocol):
    """Makes the appliance's end of each connection of a mount, such as a connection to a socket of the host."""

    async def dial(self, uid: int, gid: int) -> trio.abc.HalfCloseableStream:
        """Connect on behalf of a process of the container with this user and group. OSError when that fails."""
