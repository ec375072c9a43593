"""The exact bytes of answers: whole, in chunks, for HEAD and for HTTP/1.0; connections that a handler takes over."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from appliance.http import Disconnected, Handler, Reply, Request
from tests.appliance.http.wire import COMMON, answer, served

_GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def _handler(send: Callable[[Reply], Awaitable[None]]) -> Handler:
    async def handle(request: Request, reply: Reply) -> None:
        if request.target == "/still-open":
            await reply.raw(200, b"text/plain", b"GET /still-open ")
        else:
            await send(reply)

    return handle


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        (200, b"OK"),
        (201, b"Created"),
        (400, b"Bad Request"),
        (401, b"Unauthorized"),
        (403, b"Forbidden"),
        (404, b"Not Found"),
        (409, b"Conflict"),
        (500, b"Internal Server Error"),
        (501, b"Not Implemented"),
        (503, b"Service Unavailable"),
    ],
)
async def test_whole_answers(status: int, phrase: bytes) -> None:
    async with served(_handler(lambda reply: reply.json(status, {"message": "text"}))) as client:
        await client.send(_GET)
        await client.expect(
            b"HTTP/1.1 %d %s\r\nServer: test\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n"
            b'{"message":"text"}\n' % (status, phrase)
        )
        await client.expect_open()


@pytest.mark.parametrize(
    ("status", "line", "length"),
    [(200, b"200 OK", b"Content-Length: 0\r\n"), (204, b"204 No Content", b""), (304, b"304 Not Modified", b"")],
)
async def test_answers_without_a_body(status: int, line: bytes, length: bytes) -> None:
    async with served(_handler(lambda reply: reply.empty(status, b"X: y\r\n"))) as client:
        await client.send(_GET)
        await client.expect(b"HTTP/1.1 %s\r\nServer: test\r\n%sX: y\r\n\r\n" % (line, length))
        await client.expect_open()


async def _in_pieces(reply: Reply) -> None:
    await reply.start("text/plain", headers=b"X: y\r\n")
    for piece in (b"first", b"", b"s" * 20):
        await reply.write(piece)


async def test_an_answer_in_chunks() -> None:
    async with served(_handler(_in_pieces)) as client:
        await client.send(_GET)
        await client.expect(
            b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n"
            b"5\r\nfirst\r\n14\r\n" + b"s" * 20 + b"\r\n0\r\n\r\n"
        )
        await client.expect_open()


async def test_http_1_0_has_no_chunks() -> None:
    async with served(_handler(_in_pieces)) as client:
        await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        await client.expect_end(
            b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain\r\nX: y\r\nConnection: close\r\n\r\nfirst"
            + b"s" * 20
        )


async def test_head_has_no_body() -> None:
    async with served(_handler(lambda reply: reply.raw(200, b"text/plain", b"12345"))) as client:
        await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.expect(answer(b"12345")[:-5])
        await client.expect_open()
    async with served(_handler(_in_pieces)) as client:
        await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.expect(
            b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n"
        )
        await client.expect_open()


async def test_parts_of_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = os.urandom(3 << 20)
    path.write_bytes(content)
    with path.open("rb") as file:

        async def send(reply: Reply) -> None:
            await reply.start("text/plain")
            await reply.send_file(file.fileno(), 1, (3 << 20) - 2)

        async with served(_handler(send)) as client:
            await client.send(_GET)
            head = b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
            await client.expect(head + b"2ffffe\r\n" + content[1:-1] + b"\r\n0\r\n\r\n")
            await client.expect_open()


# -- hijack -----------------------------------------------------------------------------------------------------------

_RAW = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n" + COMMON + b"\r\n"
_UPGRADED = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    + COMMON
    + b"\r\n"
)
_ATTACH = b"POST /attach HTTP/1.1\r\nHost: docker\r\n\r\n"
_UPGRADE = b"POST /attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


async def _attach(request: Request, reply: Reply) -> None:
    """Send all that the client sends in upper case; after the end of the client, a last word."""
    async with reply.hijack("application/vnd.docker.raw-stream", "upgrade" in request.headers) as stream:
        while data := await stream.receive():
            await stream.send(data.upper())
        await stream.send(b"that was all")
        await stream.end()


@pytest.mark.parametrize(("asked", "head"), [(_ATTACH, _RAW), (_UPGRADE, _UPGRADED)])
async def test_a_hijacked_connection_and_an_end_of_the_client(asked: bytes, head: bytes) -> None:
    async with served(_attach) as client:
        await client.send(asked)
        await client.expect(head)
        await client.send(b"abc")
        await client.expect(b"ABC")
        await client.send(b"GET / HTTP/1.1\r\n\r\n")  # bytes like any others
        await client.expect(b"GET / HTTP/1.1\r\n\r\n")
        client.end()
        await client.expect_end(b"that was all")


@pytest.mark.parametrize(("asked", "head"), [(_ATTACH, _RAW), (_UPGRADE, _UPGRADED)])
async def test_bytes_that_came_with_the_head(asked: bytes, head: bytes) -> None:
    async with served(_attach) as client:
        await client.send(asked + b"early")
        await client.expect(head + b"EARLY")
        client.end()
        await client.expect_end(b"that was all")


async def test_a_body_is_not_part_of_the_stream() -> None:
    async with served(_attach) as client:
        head = _UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n%s\r\n")
        await client.send(head % b"" + b"{options}early")
        await client.expect(_UPGRADED + b"EARLY")
        client.end()
        await client.expect_end(b"that was all")
    async with served(_attach) as client:
        await client.send(head % b"Expect: 100-continue\r\n")
        await client.expect(b"HTTP/1.1 100 Continue\r\n\r\n" + _UPGRADED)
        await client.send(b"{options}typed")
        await client.expect(b"TYPED")
        client.end()
        await client.expect_end(b"that was all")


_H2C = b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n%s\r\n"
_H2C_UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + COMMON + b"\r\n"


@pytest.mark.parametrize("extra", [b"", b"Content-Length: 4\r\n"])
async def test_a_connection_that_is_given_away(extra: bytes) -> None:
    ended = trio.Event()

    async def give(request: Request, reply: Reply) -> None:
        async with reply.upgrade("h2c") as stream:
            sock, early = await stream.detach()
        with trio.socket.from_stdlib_socket(sock) as taken:
            await taken.send(early.upper())
            while data := await taken.recv(100):
                await taken.send(data.upper())
        ended.set()

    async with served(give) as client:
        await client.send(_H2C % extra + (b"body" if extra else b"") + b"early")
        await client.expect(_H2C_UPGRADED + b"EARLY")
        await client.send(b"late")
        await client.expect(b"LATE")
        client.end()
        await client.expect_end()
        await ended.wait()


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def test_a_connection_that_begins_with_http2() -> None:
    async def take(request: Request, reply: Reply) -> None:
        if request.method != "PRI":
            await reply.empty(404)
            return
        assert (request.raw_path, request.headers) == ("*", {})
        sock, early = await reply.take_over().detach()
        with trio.socket.from_stdlib_socket(sock) as taken:
            received = early
            while data := await taken.recv(100):
                received += data
            await taken.send(received)

    async with served(take) as client:
        for byte in _PREFACE + b"frames":
            await client.send(bytes([byte]))
        client.end()
        await client.expect_end(_PREFACE + b"frames")
    # Later in a connection the preface is a request as any other.
    async with served(take) as client:
        await client.send(_GET + _PREFACE)
        head = b"HTTP/1.1 404 Not Found\r\nServer: test\r\nContent-Length: 0\r\n\r\n"
        await client.expect(head)
        assert b" 400 Bad Request" in await client.receive(100)


async def test_an_answer_of_http1_to_http2_ends_the_connection() -> None:
    async with served(_handler(lambda reply: reply.json(404, {}))) as client:
        await client.send(_PREFACE)
        assert (await client.receive(1000)).startswith(b"HTTP/1.1 404 Not Found\r\n")


async def test_a_connection_that_is_given_away_with_a_broken_body_is_at_its_end() -> None:
    seen = []

    async def give(request: Request, reply: Reply) -> None:
        async with reply.upgrade("h2c") as stream:
            sock, early = await stream.detach()
        with trio.socket.from_stdlib_socket(sock) as taken:
            seen.append((early, await taken.recv(100)))

    async with served(give) as client:
        await client.send(_H2C % b"Transfer-Encoding: chunked\r\n" + b"nonsense\r\nmore")
        await client.expect_end(_H2C_UPGRADED)
    assert seen == [(b"", b"")]


async def test_the_server_does_not_read_what_was_given_away() -> None:
    """Its descriptor is in no epoll set, also if the handler returns before the new owner closes it."""
    owned = []

    async def give(request: Request, reply: Reply) -> None:
        async with reply.upgrade("h2c") as stream:
            owned.append((await stream.detach())[0])

    async with served(give) as client:
        await client.send(_H2C % b"")
        await client.expect(_H2C_UPGRADED)
        await trio.testing.wait_all_tasks_blocked()
        await client.send(b"for the new owner")
        with owned[0] as sock:
            assert sock.recv(100) == b"for the new owner"


async def test_a_whole_conversation_in_one_write() -> None:
    async with served(_attach) as client:
        await client.send(_UPGRADE + b"early")
        client.end()
        await client.expect_end(_UPGRADED + b"EARLYthat was all")


async def test_a_server_that_ends_its_side_still_reads() -> None:
    heard = b""

    async def collect(request: Request, reply: Reply) -> None:
        nonlocal heard
        async with reply.hijack("text/plain", upgrade=False) as stream:
            await stream.end()
            while data := await stream.receive(3):
                heard += data

    async with served(collect) as client:
        await client.send(_ATTACH + b"early")
        await client.expect_end(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" + COMMON + b"\r\n")
        await client.send(b" and late")
    assert heard == b"early and late"


async def test_a_client_that_leaves_a_hijacked_connection() -> None:
    error: Exception | None = None

    async def flood(request: Request, reply: Reply) -> None:
        nonlocal error
        async with reply.hijack("text/plain", upgrade=False) as stream:
            try:
                while True:
                    await stream.send(b"x" * 65536)
            except OSError as caught:
                error = caught

    async with served(flood) as client:
        await client.send(_ATTACH)
        await client.receive(100_000)
    assert isinstance(error, BrokenPipeError | ConnectionResetError)


async def test_pipelined_requests_before_a_hijack_are_answered_first() -> None:
    async def either(request: Request, reply: Reply) -> None:
        if request.method == "GET":
            await reply.raw(200, b"text/plain", b"GET / ")
        else:
            await _attach(request, reply)

    async with served(either) as client:
        await client.send(_GET + _UPGRADE + b"early")
        await client.expect(answer(b"GET / ") + _UPGRADED + b"EARLY")
        client.end()
        await client.expect_end(b"that was all")


async def test_an_error_before_the_hijack_keeps_the_connection() -> None:
    async with served(_handler(lambda reply: reply.json(404, {}))) as client:
        await client.send(_UPGRADE)
        await client.receive(len(b"HTTP/1.1 404 Not Found\r\nServer: test\r\nContent-Type: application/json\r\n"))
        await client.expect(b"Content-Length: 3\r\n\r\n{}\n")
        await client.expect_open()
    await trio.lowlevel.checkpoint()


async def test_nothing_follows_a_piece_that_was_cut_off() -> None:
    """A cancelled write may have sent a part of a chunk. The client must see a broken answer, not another one."""
    refused = trio.Event()

    async def cut(reply: Reply) -> None:
        await reply.start("text/plain")
        with trio.move_on_after(0.01) as scope:
            await reply.write(bytes(16 << 20))
        assert scope.cancelled_caught
        with pytest.raises(Disconnected):
            await reply.write(b"more")
        refused.set()

    async with served(_handler(cut)) as client:
        await client.send(_GET)
        with trio.fail_after(5):
            await refused.wait()
