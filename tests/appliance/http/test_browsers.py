"""Which requests a server takes from a browser."""

import pytest

from appliance.http import Reply, Request, refuse_other_sites
from tests.appliance.http.wire import served


async def _fine(request: Request, reply: Reply) -> None:
    await reply.empty(200)


async def _status(names: list[str] | None, head: str) -> int:
    async with served(refuse_other_sites(_fine, names)) as client:
        await client.send(f"GET / HTTP/1.1\r\n{head}\r\n\r\n".encode())
        status = int((await client.receive(12))[9:])
        client.socket.close()
        return status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:2375", 200),
        ("127.0.0.1", 200),
        ("[::1]:2375", 200),
        ("192.0.2.7", 200),
        ("localhost:2375", 200),
        ("docker:2375", 200),
        ("a.localhost", 200),
        ("API.Example.TEST.:2375", 200),
        ("", 200),
        ("rebound.test", 403),
        ("rebound.test:2375", 403),
        ("127.0.0.1.rebound.test", 403),
        ("localhost.rebound.test", 403),
        ("2130706433.rebound.test", 403),
        ("x@rebound.test", 403),
        ("[::1", 403),
    ],
)
async def test_a_name_that_an_attacker_can_register_is_not_ours(host: str, status: int) -> None:
    assert await _status(["api.example.test"], f"Host: {host}") == status


async def test_any_host_where_the_certificate_names_it() -> None:
    assert await _status(None, "Host: rebound.test") == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:2375", "http://127.0.0.1:2375", 200),
        ("api.test", "https://api.test", 200),
        ("api.test:443", "https://api.test", 200),
        ("API.test", "https://api.TEST:443", 200),
        ("127.0.0.1:2375", "http://127.0.0.1:8080", 403),
        ("127.0.0.1:2375", "http://localhost:2375", 403),
        ("127.0.0.1:2375", "https://evil.test", 403),
        ("127.0.0.1:2375", "null", 403),
        ("127.0.0.1:2375", "", 403),
        ("127.0.0.1:2375", "http://[", 403),
        ("api.test", "http://api.test:x", 403),
    ],
)
async def test_a_page_of_another_site_is_refused(host: str, origin: str, status: int) -> None:
    assert await _status(None, f"Host: {host}\r\nOrigin: {origin}") == status
