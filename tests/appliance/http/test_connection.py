"""Raw bytes into a connection: the exact bytes that come back, and whether the connection is still open."""

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from appliance.http import Reply, Request
from appliance.http.client_limits import HEAD_SECONDS, IDLE_SECONDS, ClientLimits
from appliance.http.connection import LINGER_SECONDS, MAX_SKIPPED
from appliance.http.head import MAX_HEAD
from tests.appliance.http.wire import CLOSE, answer, bad_request, served
from tests.steps import cpu_of_steps

_GET = b"GET /a HTTP/1.1\r\nHost: docker\r\n\r\n"
_POST = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nxyz"
_CHUNKED = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n1\r\nz\r\n0\r\n\r\n"


async def _unread(request: Request, reply: Reply) -> None:
    """Answer without a look at the body."""
    await reply.raw(200, b"text/plain", f"{request.method} {request.target} ".encode())


# -- whole, cut and pipelined requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "said"), [(_GET, b"GET /a "), (_POST, b"POST /b xyz"), (_CHUNKED, b"POST /c xyz")])
async def test_a_request_that_is_cut_at_every_byte(sent: bytes, said: bytes) -> None:
    async with served() as client:
        for cut in range(len(sent)):
            await client.send(sent[:cut])
            await trio.testing.wait_all_tasks_blocked()
            await client.send(sent[cut:])
            await client.expect(answer(said))
        await client.expect_open()


async def test_a_request_byte_by_byte() -> None:
    async with served() as client:
        for byte in _CHUNKED:
            await client.send(bytes((byte,)))
            await trio.testing.wait_all_tasks_blocked()
        await client.expect(answer(b"POST /c xyz"))
        await client.expect_open()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with served() as client:
        await client.send(_GET + _POST + _CHUNKED + _GET)
        await client.expect(answer(b"GET /a ") + answer(b"POST /b xyz") + answer(b"POST /c xyz") + answer(b"GET /a "))
        await client.expect_open()


async def test_a_client_that_pipelines_shares_the_loop() -> None:
    turns = 0

    async def heartbeat() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with served() as client, trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat)
        await client.send(_GET * 1000)
        await client.receive(len(answer(b"GET /a ")) * 1000)
        nursery.cancel_scope.cancel()
    assert turns > 1000


async def test_empty_lines_before_a_request() -> None:
    async with served() as client:
        await client.send(b"\r\n" + _GET)
        await client.expect(answer(b"GET /a "))
        await client.expect_open()


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_a_head_of_the_largest_size() -> None:
    start = b"GET /a HTTP/1.1\r\nHost: x\r\nX: "
    async with served() as client:
        await client.send(start + b"x" * (MAX_HEAD - len(start) - 4) + b"\r\n\r\n")
        await client.expect(answer(b"GET /a "))
        await client.expect_open()


@pytest.mark.parametrize("end", [b"xxx", b"\r\n\r\n", b"\r\n\r\n" + _GET])
async def test_a_head_that_is_too_large(end: bytes) -> None:
    start = b"GET /a HTTP/1.1\r\nHost: x\r\nX: "
    async with served() as client:
        await client.send(start + b"x" * (MAX_HEAD - len(start) - 3) + end)
        await client.expect_end(bad_request("request head too large"))


async def test_a_head_without_an_end() -> None:
    async with served() as client, trio.open_nursery() as nursery:

        async def flood() -> None:
            with suppress(OSError):
                while True:
                    await client.send(b"X: y\r\n" * 1000)

        nursery.start_soon(flood)
        await client.expect(bad_request("request head too large"))
        client.socket.close()
        nursery.cancel_scope.cancel()


async def test_as_many_headers_as_fit() -> None:
    async with served() as client:
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n" + b"A:\r\n" * 16000 + b"\r\n")
        await client.expect(answer(b"GET /a "))
        await client.expect_open()


async def test_a_json_body_that_is_too_large() -> None:
    async def read(request: Request, reply: Reply) -> None:
        with pytest.raises(Exception, match="request body larger than 8388608 bytes"):
            await request.json()
        await reply.empty(400)

    async with served(read) as client, trio.open_nursery() as nursery:
        nursery.start_soon(
            client.send, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8400000\r\n\r\n" + b" " * 8_400_000
        )
        await client.expect_end(b"HTTP/1.1 400 Bad Request\r\nServer: test\r\nContent-Length: 0\r\n" + CLOSE + b"\r\n")


@pytest.mark.parametrize(
    "chunk", [b"g\r\n", b"+1\r\n", b"1\r\nab", b"1;a\nb\r\n", b"1" * 5000, b"0\r\n" + b"A: b\r\n" * 20000]
)
async def test_a_broken_chunk_ends_the_connection(chunk: bytes) -> None:
    async with served() as client:
        await client.send(b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"\r\n" + _GET)
        await client.expect_end(bad_request("malformed chunk"))


async def test_a_body_in_chunks_of_one_byte_shares_the_loop() -> None:
    async def read(request: Request, reply: Reply) -> None:
        await reply.raw(200, b"text/plain", b"%d" % len(await request.json()))

    body = b'"' + b"x" * 60_000 + b'"'
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with cpu_of_steps() as steps:
        async with served(read) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.send, head + chunked)
            await client.expect(answer(b"60000"))
    assert steps.longest < 0.05, steps
    assert steps.count > 200


# -- bytes that are not HTTP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"\r\n\r\n", "malformed request: the head has no request line"),
        (b"GET / HTTP/2.0\r\n\r\n", "unsupported HTTP version 2.0"),
        (b"GET / HTTP/1.1\r\nAccept: x\r\n\r\n", "missing required Host header"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "repeated header host"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", "malformed request: Invalid header token"),
        (b"GET / HTTP/1.1\nA: b\r\n\r\n", "malformed request: Expected CRLF after version"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "unsupported transfer encoding gzip, chunked",
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999999999999\r\n\r\n", "malformed Content-Length"),
    ],
)
async def test_malformed_requests_are_answered_and_end_the_connection(sent: bytes, said: str) -> None:
    async with served() as client:
        await client.send(sent + _GET)
        await client.expect_end(bad_request(said))


async def test_a_malformed_request_behind_a_good_one() -> None:
    async with served() as client:
        await client.send(_GET + b"GET / HTTP/1.1\r\nHost: x\r\nA\0: b\r\n\r\n" + _GET)
        await client.expect_end(answer(b"GET /a ") + bad_request("malformed request: Invalid header token"))


# -- the end of a connection ------------------------------------------------------------------------------------------


async def test_keep_alive_and_close() -> None:
    async with served() as client:
        await client.send(_GET)
        await client.expect(answer(b"GET /a "))
        await client.send(b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + _GET)
        await client.expect_end(answer(b"GET /last ", CLOSE))


async def test_http_1_0() -> None:
    async with served() as client:
        await client.send(b"GET /kept HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        await client.expect(answer(b"GET /kept "))
        await client.send(b"GET /last HTTP/1.0\r\n\r\n" + _GET)
        await client.expect_end(answer(b"GET /last ", CLOSE))


@pytest.mark.parametrize("sent", [b"", b"GET /a HT", b"GET /a HTTP/1.1\r\nHost: docker\r\n"])
async def test_a_client_that_ends_before_its_request_does(sent: bytes) -> None:
    async with served() as client:
        await client.send(sent)
        client.end()
        await client.expect_end()


async def test_a_client_that_ends_its_side_gets_its_answers() -> None:
    async with served() as client:
        await client.send(_GET + _POST)
        client.end()
        await client.expect_end(answer(b"GET /a ") + answer(b"POST /b xyz"))


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nxy",
        b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nxy",
        b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n",
    ],
)
async def test_a_client_that_ends_in_the_middle_of_a_body_gets_no_answer(sent: bytes) -> None:
    async with served() as client:
        await client.send(sent)
        client.end()
        await client.expect_end()


async def test_a_client_that_leaves_in_the_middle_of_an_answer() -> None:
    reached = trio.Event()

    async def large(request: Request, reply: Reply) -> None:
        await reply.start("application/octet-stream")
        reached.set()
        while True:
            await reply.write(b"x" * 65536)

    async with served(large) as client:
        await client.send(_GET)
        await reached.wait()
        await client.receive(100_000)
    # `served` has seen the server close its end.


# -- bodies that the handler did not read -----------------------------------------------------------------------------


async def test_a_small_unread_body_is_skipped() -> None:
    async with served(_unread) as client:
        await client.send(_POST + _CHUNKED)
        await client.expect(answer(b"POST /b ") + answer(b"POST /c "))
        await client.send(_GET)
        await client.expect(answer(b"GET /a "))


async def test_a_large_unread_body_ends_the_connection_after_the_answer() -> None:
    async with served(_unread) as client:
        await client.send(b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (MAX_SKIPPED * 4))
        await client.expect(answer(b"POST /b "))
        await client.send(b"x" * (MAX_SKIPPED + 65536 * 2))
        await client.expect_end()


async def test_a_client_that_still_sends_reads_its_answer() -> None:
    async def refuse(request: Request, reply: Reply) -> None:
        await reply.raw(400, b"text/plain", b"no")
        reply._connection.keep_alive = False

    async with served(refuse) as client:
        await client.send(b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 100_000)
        await client.expect_end(
            b"HTTP/1.1 400 Bad Request\r\nServer: test\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno"
        )


# -- Expect -----------------------------------------------------------------------------------------------------------

_EXPECT = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"


async def test_a_client_that_waits_for_continue() -> None:
    async with served() as client:
        await client.send(_EXPECT)
        await client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
        await client.send(b"xyz")
        await client.expect(answer(b"POST /b xyz"))
        await client.expect_open()


async def test_continue_is_sent_once() -> None:
    async with served() as client:
        await client.send(_EXPECT)
        await client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
        for byte in (b"x", b"y", b"z"):
            await client.send(byte)
            await trio.testing.wait_all_tasks_blocked()
        await client.expect(answer(b"POST /b xyz"))
        await client.expect_open()


async def test_a_client_that_does_not_wait_for_continue() -> None:
    async with served() as client:
        await client.send(_EXPECT + b"xyz")
        await client.expect(answer(b"POST /b xyz"))
        await client.expect_open()


async def test_a_refused_body_is_never_asked_for() -> None:
    async with served(_unread) as client:
        await client.send(_EXPECT)
        # The client may send its body or not, so that the start of its next request is unknown.
        await client.expect_end(answer(b"POST /b "))


async def test_expect_without_a_body() -> None:
    async with served() as client:
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n")
        await client.expect(answer(b"GET /a "))
        await client.expect_open()


# -- slow and idle clients --------------------------------------------------------------------------------------------


async def test_an_idle_connection_stays(autojump_clock: MockClock) -> None:
    async with served() as client:
        await client.send(_GET)
        await client.expect(answer(b"GET /a "))
        await trio.sleep(IDLE_SECONDS * 0.9)
        await client.expect_open()


async def test_a_connection_that_is_idle_for_too_long_ends(autojump_clock: MockClock) -> None:
    async with served() as client:
        await client.send(_GET)
        await client.expect(answer(b"GET /a "))
        begin = trio.current_time()
        assert await client.socket.recv(100) == b""
        assert IDLE_SECONDS <= trio.current_time() - begin <= IDLE_SECONDS * 1.2


async def test_beyond_a_bound_the_connection_that_is_idle_for_longest_ends() -> None:
    limits = ClientLimits(most_idle=1)
    first, second = trio.socket.socketpair()
    third, fourth = trio.socket.socketpair()
    with first, second, third, fourth, trio.fail_after(5):
        limits.idle(first)
        limits.busy(first)
        limits.idle(third)
        limits.idle(first)
        assert await third.recv(1) == b""
        await second.send(b"x")
        assert await first.recv(1) == b"x"


async def test_a_head_that_does_not_end_in_time(autojump_clock: MockClock) -> None:
    async with served() as client:
        begin = trio.current_time()
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n")
        with trio.move_on_after(HEAD_SECONDS - 1) as scope:
            while True:
                await trio.sleep(1)
                await client.send(b"X: y\r\n")
        assert scope.cancelled_caught
        assert await client.socket.recv(100) == b""
        assert HEAD_SECONDS - 1 <= trio.current_time() - begin <= HEAD_SECONDS + 1


async def test_a_slow_body_has_no_time_limit(autojump_clock: MockClock) -> None:
    async with served() as client:
        await client.send(b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        for byte in (b"x", b"y", b"z"):
            await trio.sleep(1000)
            await client.send(byte)
        await client.expect(answer(b"POST /b xyz"))
        await client.expect_open()


async def test_a_client_that_never_stops_sending_is_cut_off(autojump_clock: MockClock) -> None:
    async with served() as client:
        begin = trio.current_time()
        await client.send(b"GET / HTTP/2.0\r\n\r\n")
        await client.expect_end(bad_request("unsupported HTTP version 2.0"))
        with suppress(OSError):
            while True:
                await client.send(b"more")
                await trio.sleep(0.1)
        assert LINGER_SECONDS <= trio.current_time() - begin <= LINGER_SECONDS + 0.2
