"""Connecting to a unix socket by a descriptor of its place, which works for paths of any length and in any mount namespace."""

import socket
from collections.abc import Awaitable, Callable

import trio

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2


async def _connect(made: socket.socket, path: str) -> None:
    made.connect(path)


async def connect_unix(
    place: int, connect: Callable[[socket.socket, str], Awaitable[None]] = _connect
) -> trio.SocketStream:
    """Connect to the SOCK_STREAM socket that the descriptor `place` (O_PATH) leads to. OSError. Waits while its queue is full.

    `connect` calls connect(2), which does not block.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    pause = _FIRST_PAUSE
    try:
        while True:
            try:
                await connect(made, f"/proc/self/fd/{place}")
                break
            except BlockingIOError:
                # The queue is full, and the kernel does not report when it has room (unix(7)). trio would take it for EINPROGRESS.
                await trio.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
    except BaseException:
        made.close()
        raise
    return trio.SocketStream(trio.socket.from_stdlib_socket(made))
