"""Where a registry may send its client: addresses, redirects, secrets on the way."""

from collections.abc import Callable, Iterable

import httpcore
import httpx
import pytest
import trio

from appliance.errors import ProtocolError
from appliance.registry import destinations as module
from appliance.registry.destinations import MAX_REDIRECTS, Destinations, GuardedBackend, same_origin, send_following

_NAMES = {
    "public.test": ["192.0.2.1", "2001:db8::1"],
    "storage.test": ["198.51.100.1"],
    "private.test": ["10.0.0.1", "fd00::1"],
    "metadata.test": ["169.254.169.254"],
    "rebound.test": ["192.0.2.9", "127.0.0.1"],
    "local.test": ["127.0.0.1"],
}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    async def addresses_of(host: str, port: int) -> list[str]:
        if host in _NAMES:
            return _NAMES[host]
        if host.replace(".", "").isdigit() or ":" in host:
            return [host]
        raise OSError("no such host")

    monkeypatch.setattr(module, "addresses_of", addresses_of)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("192.0.2.1", ""),
        ("10.0.0.1", ""),
        ("192.168.1.1", ""),
        ("fd00::1", ""),
        ("127.0.0.1", "loopback"),
        ("127.255.0.3", "loopback"),
        ("0.0.0.0", "loopback"),
        ("::", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
    ],
)
async def test_addresses_that_a_public_registry_may_name(address: str, kind: str) -> None:
    destinations = Destinations(["public.test", "unknown.test"])
    if not kind:
        await destinations.check("x", [address])
        return
    with pytest.raises(ProtocolError, match=f"a redirect to x is refused: it has the {kind} address"):
        await destinations.check("x", ["192.0.2.1", address])


async def test_a_registry_of_this_host_may_name_this_host_but_not_the_link() -> None:
    destinations = Destinations(["local.test"])
    await destinations.check("x", ["127.0.0.1", "::1"])
    with pytest.raises(ProtocolError, match="link-local"):
        await destinations.check("x", ["169.254.169.254"])


async def test_requests_beside_each_other_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(host: str, port: int) -> list[str]:
        await trio.testing.wait_all_tasks_blocked()
        return _NAMES[host]

    monkeypatch.setattr(module, "addresses_of", slow)
    destinations = Destinations(["local.test"])
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(destinations.check, "x", ["127.0.0.1"])


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.asked.append(host)
        raise httpcore.ConnectError(f"{host} refused")


async def test_connections_go_to_the_addresses_that_were_checked() -> None:
    guarded = GuardedBackend(Destinations(["public.test"]))
    guarded._backend = backend = _Backend()  # type: ignore[assignment]  # the contract is the same
    with pytest.raises(httpcore.ConnectError, match="fd00::1 refused"):
        await guarded.connect_tcp("private.test", 80)
    assert backend.asked == ["10.0.0.1", "fd00::1"]
    for name in ("metadata.test", "rebound.test", "127.0.0.1"):
        with pytest.raises(ProtocolError, match="is refused"):
            await guarded.connect_tcp(name, 80)
    with pytest.raises(httpcore.ConnectError, match="no such host"):
        await guarded.connect_tcp("unknown.test", 80)
    assert backend.asked == ["10.0.0.1", "fd00::1"]


async def _follow(handler: Callable[[httpx.Request], httpx.Response], request: httpx.Request) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        response = await send_following(client, request, Destinations(["public.test"]))
        await response.aclose()
        return response


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        ("https://public.test/b", True),
        ("/b", True),
        ("https://public.test:444/b", False),
        ("http://public.test/b", False),
        ("https://storage.test/b", False),
        ("https://sub.public.test/b", False),
    ],
)
async def test_credentials_stay_with_their_origin(target: str, kept: bool) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/a":
            return httpx.Response(307, headers={"Location": target})
        return httpx.Response(200, text=request.headers.get("authorization", ""))

    request = httpx.Request("GET", "https://public.test/a", headers={"Authorization": "secret"})
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        response = await send_following(client, request, Destinations(["public.test"]))
        assert await response.aread() == (b"secret" if kept else b"")


async def test_the_form_of_a_token_request_is_not_repeated() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(307, headers={"Location": "https://storage.test/"})

    with pytest.raises(ProtocolError, match=r"a redirect of a token request to storage\.test is refused"):
        await _follow(handler, httpx.Request("POST", "https://public.test/", data={"refresh_token": "secret"}))


async def test_redirects_end() -> None:
    asked = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return httpx.Response(302, headers={"Location": "/again"})

    with pytest.raises(httpx.TooManyRedirects):
        await _follow(handler, httpx.Request("GET", "https://public.test/"))
    assert asked == MAX_REDIRECTS + 1


def test_origins() -> None:
    def same(first: str, second: str) -> bool:
        return same_origin(httpx.URL(first), httpx.URL(second))

    assert same("https://a.test/x", "https://a.test:443/y")
    assert not same("https://a.test", "https://a.test.evil.test")
    assert not same("https://a.test", "https://a.test@evil.test")
    assert not same("https://a.test", "http://a.test")
    assert not same("https://a.test", "https://a.test:444")
