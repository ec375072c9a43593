"""What a handler reads: query parameters, JSON bodies, the presence of the client."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from appliance.errors import InvalidParameter, VchError
from appliance.http import ClientLimits, Disconnected, Reply, Request
from appliance.http.connection import Connection
from appliance.http.head import parse_head_untrusted
from appliance.http.readiness import Readiness
from tests.appliance.http.wire import answer, served
from tests.steps import cpu_of_steps


def _request(target: str) -> Request:
    first, second = trio.socket.socketpair()
    with first, second:
        connection = Connection(first, bytes, Readiness(), ClientLimits())
        return Request(connection, parse_head_untrusted(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()))


async def test_the_query() -> None:
    request = _request("/a%20b?x=1&x=2&empty=&flag&plus=a+b%26c")
    assert request.raw_path == "/a%20b"
    assert request.query == {"x": ["1", "2"], "empty": [""], "flag": [""], "plus": ["a b&c"]}
    assert (request.text("x"), request.text("absent"), request.text("absent", "else")) == ("1", "", "else")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", True),
        ("true", True),
        ("yes", True),
        ("0", False),
        ("No", False),
        ("FALSE", False),
        ("none", False),
        ("", False),
    ],
)
async def test_flags(text: str, value: bool) -> None:
    assert _request(f"/?flag={text}").flag("flag", default=not value) is value
    assert _request("/").flag("flag", default=value) is value


async def test_numbers() -> None:
    assert _request("/?t=-5").number("t") == -5
    assert _request("/?t=").number("t") is None
    assert _request("/").number("t") is None
    assert _request("/?t=%2B7").number("t") == 7
    for text in ("x", "1.5", "1_0", "%201", "%D9%A3", "+"):
        with pytest.raises(InvalidParameter, match=r'strconv.Atoi: parsing ".*": invalid syntax'):
            _request(f"/?t={text}").number("t")
    for text in ("9223372036854775808", "-9223372036854775809", "9" * 5000):
        with pytest.raises(InvalidParameter, match=r'strconv.Atoi: parsing ".*": value out of range'):
            _request(f"/?t={text}").number("t")


async def test_a_query_of_too_many_fields() -> None:
    with pytest.raises(InvalidParameter, match="malformed query"):
        _request("/?" + "a&" * 2000).text("a")


async def _decoded(kind: bytes, body: bytes) -> Any:
    found: list[Any] = []

    async def read(request: Request, reply: Reply) -> None:
        try:
            found.append(await request.json())
        except VchError as error:
            found.append(error)
        await reply.empty(204)

    async with served(read) as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)
        )
        await client.expect(b"HTTP/1.1 204 No Content\r\nServer: test\r\n\r\n")
    return found[0]


async def test_json() -> None:
    assert await _decoded(b"application/json", b'{"a": [1]}') == {"a": [1]}
    assert await _decoded(b"application/json; charset=utf-8", b"3") == 3
    assert await _decoded(b"", b"") is None


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (b"", b"{}", "malformed Content-Type header (): mime: no media type"),
        (b"text/plain", b"{}", 'unsupported Content-Type header (text/plain): must be "application/json"'),
        (b"application/json", b"{", "invalid JSON: "),
        (b"application/json", b"{}{}", "invalid JSON: "),
        (b"application/json", b"\xff\xfe", "invalid JSON: "),
        (b"application/json", b"NaN", "invalid JSON: "),
        (b"application/json", b"[" * 100_000, "invalid JSON: "),
    ],
)
async def test_bodies_that_are_not_json(kind: bytes, body: bytes, message: str) -> None:
    error = await _decoded(kind, body)
    assert isinstance(error, InvalidParameter)
    assert str(error).startswith(message)


@pytest.mark.parametrize("value", [b"[]", b"{}", b"0", b'""', b'{"":0}'])
async def test_a_body_of_many_small_values_does_not_block_the_loop(value: bytes) -> None:
    with cpu_of_steps() as steps:
        error = await _decoded(
            b"application/json", b"[" + (value + b",") * ((8 << 20) // len(value + b",") - 2) + b"0]"
        )
    assert str(error) == "invalid JSON: more than 200000 values"
    assert steps.longest < 0.05, steps


async def test_a_large_body_of_few_values() -> None:
    body = b'["' + b"x" * (7 << 20) + b'"]'
    with cpu_of_steps() as steps:
        assert await _decoded(b"application/json", body) == [body[2:-2].decode()]
    assert steps.longest < 0.05, steps


async def _wait_for_client(leave: Callable[[trio.socket.SocketType], None]) -> list[str]:
    ends: list[str] = []

    async def wait(request: Request, reply: Reply) -> None:
        try:
            async with request.while_connected():
                await trio.sleep_forever()
        except Disconnected:
            ends.append("disconnected")
            raise

    async with served(wait) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        leave(client.socket)
    return ends


async def test_a_wait_ends_when_the_client_leaves() -> None:
    assert await _wait_for_client(lambda sock: sock.close()) == ["disconnected"]
    assert await _wait_for_client(lambda sock: sock.shutdown(trio.socket.SHUT_WR)) == ["disconnected"]


async def test_a_request_that_arrives_during_a_wait_is_served_next() -> None:
    asked = trio.Event()

    async def wait(request: Request, reply: Reply) -> None:
        if request.target == "/wait":
            async with request.while_connected():
                await asked.wait()
        await reply.raw(200, b"text/plain", request.target.encode())

    async with served(wait) as client:
        await client.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await client.send(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        asked.set()
        await client.expect(answer(b"/wait") + answer(b"/next"))


async def test_an_error_during_a_wait_is_raised_as_it_is() -> None:
    """A nursery puts errors into groups. A client that left in the middle of an answer was logged as an internal error."""

    async def wait(request: Request, reply: Reply) -> None:
        with pytest.raises(Disconnected, match="gone"):
            async with request.while_connected():
                raise Disconnected("gone")
        await reply.raw(200, b"text/plain", b"as it is")

    async with served(wait) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.expect(answer(b"as it is"))
