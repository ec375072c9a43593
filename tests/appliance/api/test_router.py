"""Versions, patterns and errors of the router, by raw bytes."""

import json
import logging

import pytest

from appliance import errors
from appliance.api.router import Router
from appliance.http import Reply, Request
from tests.appliance.http.wire import served

_ERROR = b"HTTP/1.1 %s\r\nServer: test\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"


async def _show(request: Request, reply: Reply) -> None:
    text = f"{request.version[0]}.{request.version[1]} {json.dumps(request.path)}"
    await reply.raw(200, b"text/plain", text.encode())


def _router() -> Router:
    router = Router()
    router.add_all(
        {
            ("GET", "/info"): _show,
            ("GET", "/containers/{name}/json"): _show,
            ("GET", "/images/{name:.*}/json"): _show,
            ("POST", "/containers/{name}/exec"): _show,
        }
    )
    return router


async def _asked(router: Router, line: bytes, status: bytes = b"200 OK") -> str:
    async with served(router) as client:
        await client.send(line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await client.receive(1 << 20)
    assert answer.startswith(b"HTTP/1.1 " + status + b"\r\n"), answer
    return answer.partition(b"\r\n\r\n")[2].decode()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"GET /info", "1.51 {}"),
        (b"GET /v1.51/info", "1.51 {}"),
        (b"GET /v1.22/info?a=b", "1.22 {}"),
        (b"GET /v1.24/containers/a%2Fb%20c/json", '1.24 {"name": "a/b c"}'),
        (b"GET /images/registry/team/app:1.0/json", '1.51 {"name": "registry/team/app:1.0"}'),
        (b"POST /containers/box/exec", '1.51 {"name": "box"}'),
    ],
)
async def test_routes(line: bytes, shown: str) -> None:
    assert await _asked(_router(), line) == shown


@pytest.mark.parametrize(
    "line",
    [
        b"GET /",
        b"GET /nothing",
        b"POST /info",
        b"GET /info/",
        b"GET //info",
        b"GET /containers//json",
        b"GET /containers/a/b/json",
        b"GET /v1.51",
        b"GET /v1/info",
        b"GET /v1.51/v1.51/info",
        b"GET /va.b/info",
    ],
)
async def test_paths_without_a_route(line: bytes) -> None:
    assert await _asked(_router(), line, b"404 Not Found") == '{"message":"page not found"}\n'


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            b"1.21",
            "client version 1.21 is too old. Minimum supported API version is 1.22, "
            "please upgrade your client to a newer version",
        ),
        (b"1.52", "client version 1.52 is too new. Maximum supported API version is 1.51"),
        (b"2.0", "client version 2.0 is too new. Maximum supported API version is 1.51"),
    ],
)
async def test_versions_that_are_refused(version: bytes, message: str) -> None:
    body = await _asked(_router(), b"GET /v%s/info" % version, b"400 Bad Request")
    assert json.loads(body) == {"message": message}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotFound("text"), b"404 Not Found"),
        (errors.Conflict("text"), b"409 Conflict"),
        (errors.InvalidParameter("text"), b"400 Bad Request"),
        (errors.ProtocolError("text"), b"400 Bad Request"),
        (errors.Unauthorized("text"), b"401 Unauthorized"),
        (errors.Forbidden("text"), b"403 Forbidden"),
        (errors.Unsupported("text"), b"501 Not Implemented"),
        (errors.NotInSwarm("text"), b"503 Service Unavailable"),
        (errors.Unavailable("text"), b"503 Service Unavailable"),
        (errors.HypervisorError("text"), b"500 Internal Server Error"),
    ],
)
async def test_errors_become_statuses(error: Exception, status: bytes) -> None:
    async def fail(request: Request, reply: Reply) -> None:
        raise error

    router = Router()
    router.add("GET", "/", fail)
    assert await _asked(router, b"GET /", status) == '{"message":"text"}\n'


async def test_not_modified_has_no_body() -> None:
    async def fail(request: Request, reply: Reply) -> None:
        raise errors.NotModified("text")

    router = Router()
    router.add("GET", "/", fail)
    assert await _asked(router, b"GET /", b"304 Not Modified") == ""


async def test_an_error_of_no_kind_keeps_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: Request, reply: Reply) -> None:
        raise ZeroDivisionError("a fault")

    router = Router()
    router.add("GET", "/", fail)
    async with served(router) as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            body = b'{"message":"internal error: ZeroDivisionError(\'a fault\')"}\n'
            await client.expect(_ERROR % (b"500 Internal Server Error", len(body), body))
    assert [record.getMessage() for record in caplog.records] == ["GET / failed"] * 2


@pytest.mark.parametrize("error", [errors.NotFound("text"), ZeroDivisionError()])
async def test_an_error_behind_the_head_ends_the_connection(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: Request, reply: Reply) -> None:
        await reply.start("text/plain")
        await reply.write(b"abc")
        raise error

    router = Router()
    router.add("GET", "/", fail)
    with caplog.at_level(logging.WARNING):
        async with served(router) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.expect_end(
                b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"3\r\nabc\r\n"
            )
    assert len(caplog.records) == 1
