"""A served connection over a socket pair: the server has one end, the test is the client at the other end."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from appliance.errors import ProtocolError
from appliance.http import ClientLimits, Handler, Readiness, Reply, Request, serve_connection
from appliance.roles import LOCAL, Principal

COMMON = b"Server: test\r\n"
CLOSE = b"Connection: close\r\n"


def common() -> bytes:
    """The header lines that the server adds to each answer."""
    return COMMON


def answer(body: bytes, extra: bytes = b"") -> bytes:
    """The complete answer of `echo` to a request."""
    return b"HTTP/1.1 200 OK\r\n%sContent-Type: text/plain\r\nContent-Length: %d\r\n%s\r\n%s" % (
        COMMON,
        len(body),
        extra,
        body,
    )


def bad_request(message: str) -> bytes:
    """The complete answer of the server to bytes that are not HTTP."""
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
        """Check that the server sends these bytes next."""
        assert await self.receive(len(data)) == data

    async def expect_end(self, data: bytes = b"") -> None:
        """Check that the server sends these bytes next, and then ends the connection."""
        received = b""
        with trio.fail_after(20):
            while piece := await self.socket.recv(1 << 16):
                received += piece
        assert received == data

    async def expect_open(self) -> None:
        """Check that the connection is open and silent: the answer to a new request is the next that comes."""
        await self.send(b"GET /still-open HTTP/1.1\r\nHost: x\r\n\r\n")
        await self.expect(answer(b"GET /still-open "))

    def end(self) -> None:
        """Close the client's side: it sends no more."""
        self.socket.shutdown(trio.socket.SHUT_WR)


@asynccontextmanager
async def served(handler: Handler = echo, principal: Principal = LOCAL) -> AsyncIterator[Client]:
    """A connection that is served. At the end of the block the client leaves, and the server has to notice."""
    ours, theirs = trio.socket.socketpair()
    readiness, limits = Readiness(), ClientLimits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.run)
        nursery.start_soon(limits.run)
        with ours, trio.fail_after(5000):
            async with trio.open_nursery() as connection:
                connection.start_soon(serve_connection, theirs, handler, common, readiness, limits, principal)
                yield Client(ours)
                ours.close()
        assert theirs.fileno() < 0
        nursery.cancel_scope.cancel()
