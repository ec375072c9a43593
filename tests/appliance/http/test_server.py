"""The life of a connection: handlers that fail, and the registration of the socket."""

import pytest
import trio

from appliance.http import ClientLimits, Disconnected, Readiness, Reply, Request, serve_connection
from tests.appliance.http.wire import answer, common, echo, served


async def test_an_answer_that_breaks_off_has_no_last_chunk() -> None:
    async def break_off(request: Request, reply: Reply) -> None:
        await reply.start("text/plain")
        await reply.write(b"abc")
        raise Disconnected

    async with served(break_off) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.expect_end(
            b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )


async def test_a_handler_that_fails_closes_the_connection() -> None:
    async def fail(request: Request, reply: Reply) -> None:
        raise RuntimeError("a fault")

    ours, theirs = trio.socket.socketpair()
    readiness = Readiness()
    with ours:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.run)
            await ours.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises(RuntimeError, match="a fault"):
                await serve_connection(theirs, fail, common, readiness, ClientLimits())
            assert theirs.fileno() < 0
            assert await ours.recv(1) == b""
            nursery.cancel_scope.cancel()


async def test_a_cancelled_connection_is_closed() -> None:
    ours, theirs = trio.socket.socketpair()
    readiness = Readiness()
    with ours:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.run)
            nursery.start_soon(serve_connection, theirs, echo, common, readiness, ClientLimits())
            await ours.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await ours.recv(1000) == answer(b"GET /a ")
            nursery.cancel_scope.cancel()
        assert await ours.recv(1) == b""


async def test_many_connections_at_once() -> None:
    async def ask(number: int) -> None:
        async with served() as client:
            for _ in range(10):
                await client.send(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
                await client.expect(answer(b"GET /%d " % number))

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(ask, number)
