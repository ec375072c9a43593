"""What clients may hold of the server before a request is complete, so that a flood of half requests costs little memory."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import trio

# From the first byte of a head to its last one. (dockerd waits 300 s.)
HEAD_SECONDS = 30.0
# Between two requests. Clients with connection pools (Go: 30 to 90 s) close an idle connection earlier than this.
IDLE_SECONDS = 600.0
_SWEEP_SECONDS = IDLE_SECONDS / 10
# A connection with an unfinished head costs more than the bytes of the head.
_CONNECTION_BYTES = 4 << 10
MAX_UNFINISHED_BYTES = 16 << 20
# Of a JSON body. (dockerd waits without end.)
BODY_SECONDS = 300.0
MAX_UNFINISHED_BODIES = 64 << 20

Grow = Callable[[int], None]
"""Gets the size that an unfinished operation has now."""


class Unfinished:
    """Operations that wait for bytes of a client: heads, whole bodies, TLS handshakes.

    Each has `seconds`; the sum of their sizes is at most `most`.

    The oldest operation is cancelled to make room: a regular client completes at once, a flood is what stays.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        # The oldest first.
        self._sizes: dict[trio.CancelScope, int] = {}
        self._total = 0

    @contextmanager
    def operation(self) -> Iterator[Grow]:
        """The block is one operation, of the size 1 until it grows. It is cancelled when its time is over, or its room is needed."""
        with trio.move_on_after(self._seconds) as scope:
            self._resize(scope, 1)
            try:
                yield partial(self._resize, scope)
            finally:
                self._forget(scope)

    def _resize(self, scope: trio.CancelScope, size: int) -> None:
        self._total += size - self._sizes.get(scope, 0)
        self._sizes[scope] = size
        while self._total > self._most:
            oldest = next(iter(self._sizes))
            self._forget(oldest)
            oldest.cancel()

    def _forget(self, scope: trio.CancelScope) -> None:
        self._total -= self._sizes.pop(scope, 0)


class ClientLimits:
    """The limits of all connections of a server. `run` must be running: it closes connections that are idle for too long.

    With `most_idle`, the connection that is idle for longest is closed when more are idle.
    """

    def __init__(self, most_idle: int | None = None) -> None:
        self._most_idle = most_idle
        self._heads = Unfinished(MAX_UNFINISHED_BYTES, HEAD_SECONDS)
        self._bodies = Unfinished(MAX_UNFINISHED_BODIES, BODY_SECONDS)
        # Idle connections and when their last request ended. The longest idle is the first.
        self._idle: dict[trio.socket.SocketType, float] = {}

    @contextmanager
    def unfinished_head(self) -> Iterator[Grow]:
        """The block receives the rest of a head, and calls `grow` with the bytes that the connection holds. See Unfinished."""
        with self._heads.operation() as grow:
            yield lambda size: grow(size + _CONNECTION_BYTES)

    @contextmanager
    def unfinished_body(self) -> Iterator[Grow]:
        """The block receives a whole body, and calls `grow` with the bytes that have come. See Unfinished."""
        with self._bodies.operation() as grow:
            yield lambda size: grow(size + _CONNECTION_BYTES)

    def idle(self, sock: trio.socket.SocketType) -> None:
        """The connection waits for its next request."""
        self._idle[sock] = trio.current_time()
        if self._most_idle is not None and len(self._idle) > self._most_idle:
            self._close(next(iter(self._idle)))

    def busy(self, sock: trio.socket.SocketType) -> None:
        """The connection has bytes of a request, or is closed."""
        self._idle.pop(sock, None)

    async def run(self) -> None:
        """Close idle connections in time, until cancelled."""
        while True:
            await trio.sleep(_SWEEP_SECONDS)
            latest = trio.current_time() - IDLE_SECONDS
            for sock in [sock for sock, since in self._idle.items() if since <= latest]:
                self._close(sock)

    def _close(self, sock: trio.socket.SocketType) -> None:
        self.busy(sock)
        # The connection reads an end now, and closes.
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RD)
