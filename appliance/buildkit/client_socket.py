"""The socket of a build client on the build loop."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Bytes that wait between a client's socket and who reads them. One read takes as many.
READ_AHEAD = 1 << 20
# For a client that still reads its last answers.
_FLUSH_SECONDS = 5.0


@asynccontextmanager
async def client_streams(
    connection: socket.socket,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The two streams of a connected, non-blocking socket. Owns the socket, which is closed when the block is left.

    What was written by then still goes out, for some seconds.
    """
    try:
        reader, writer = await asyncio.open_connection(sock=connection, limit=READ_AHEAD)
    except BaseException:
        connection.close()
        raise
    try:
        yield reader, writer
    finally:
        writer.close()
        try:
            # Not `wait_for`: in Python 3.11 it may lose a cancellation.
            async with asyncio.timeout(_FLUSH_SECONDS):
                await writer.wait_closed()
        except (TimeoutError, OSError):
            pass
        finally:
            if connection.fileno() >= 0:
                writer.transport.abort()
