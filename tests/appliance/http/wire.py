"""A served connection in memory: the server's end is a socket pair's, the client's end is in the hands of the test."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from appliance.errors import ProtocolError
from appliance.http import Handler, Readiness, Reply, Request, serve_connection

COMMON = b"Server: test\r\n"
CLOSE = b"Connection: close\r\n"


def answer(body: bytes, extra: bytes = b"") -> bytes:
    """What `echo` sends for a request: all of it."""
    return b"HTTP/1.1 200 OK\r\n%sContent-Type: text/plain\r\nContent-Length: %d\r\n%s\r\n%s" % (
        COMMON,
        len(body),
        extra,
        body,
    )


def bad_request(message: str) -> bytes:
    """What the server sends for bytes that are not HTTP: all of it."""
    body = json.dumps({"message": message}, separators=(",", ":")).encode() + b"\n"
    return (
        b"HTTP/1.1 400 Bad Request\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
        % (COMMON, len(body), body)
    )


async def echo(request: Request, reply: Reply) -> None:
    """Answer with the method, the target and the body."""
    try:
        body = b"".join([piece async for piece in request.body()])
    except ProtocolError as error:
        await reply.json(400, {"message": str(error)})
        return
    await reply.raw(200, b"text/plain", f"{request.method} {request.target} ".encode() + body)


class Client:
    """The client's end of a connection."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.socket = sock

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[await self.socket.send(view) :]

    async def receive(self, size: int) -> bytes:
        """`size` bytes, or fewer if the server ends the connection before."""
        data = b""
        with trio.fail_after(20):
            while len(data) < size and (piece := await self.socket.recv(size - len(data))):
                data += piece
        return data

    async def expect(self, data: bytes) -> None:
        """These bytes come next."""
        assert await self.receive(len(data)) == data

    async def expect_end(self, data: bytes = b"") -> None:
        """These bytes come next, and then the end of the connection."""
        received = b""
        with trio.fail_after(20):
            while piece := await self.socket.recv(1 << 16):
                received += piece
        assert received == data

    async def expect_open(self) -> None:
        """The connection is open and silent: a request is answered, and nothing comes before its answer."""
        await self.send(b"GET /still-open HTTP/1.1\r\n\r\n")
        await self.expect(answer(b"GET /still-open "))

    def end(self) -> None:
        """No more will be sent."""
        self.socket.shutdown(trio.socket.SHUT_WR)


@asynccontextmanager
async def served(handler: Handler = echo) -> AsyncIterator[Client]:
    """A connection that is served. At the end of the block the client leaves, and the server has to notice."""
    ours, theirs = trio.socket.socketpair()
    readiness = Readiness()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.run)
        with ours, trio.fail_after(5000):
            async with trio.open_nursery() as connection:
                connection.start_soon(serve_connection, theirs, handler, COMMON, readiness)
                yield Client(ours)
                ours.close()
        assert theirs.fileno() < 0
        nursery.cancel_scope.cancel()
