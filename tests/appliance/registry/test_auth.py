"""Answers to a registry's challenge."""

from collections.abc import Callable

import httpx
import pytest

from appliance.errors import ProtocolError, Unauthorized, Unavailable
from appliance.registry.auth import Credentials, NoBasicCredentials, authorization
from appliance.registry.destinations import Destinations
from appliance.registry.wire import ComeBackLater
from tests.steps import cpu_of_steps

_CHALLENGE = 'Bearer realm="https://auth.test/token?kept=1",service="registry.test",scope="repository:app:pull"'
_Handler = Callable[[httpx.Request], httpx.Response]


async def _answer(handler: _Handler, challenge: str = _CHALLENGE, known: Credentials | None = None) -> str | None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        return await authorization(
            client, "registry.test", challenge, "repository:app:push", known or Credentials(), Destinations(())
        )


def _token(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"token": "t0k"})


async def test_a_token_is_asked_for_all_scopes() -> None:
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return _token(request)

    assert await _answer(handler, known=Credentials("me", "secret")) == "Bearer t0k"
    (request,) = asked
    assert (request.method, request.url.host, request.url.path) == ("GET", "auth.test", "/token")
    assert request.url.params.multi_items() == [
        ("kept", "1"),
        ("service", "registry.test"),
        ("scope", "repository:app:push"),
        ("scope", "repository:app:pull"),
        ("account", "me"),
    ]
    assert request.headers["authorization"].startswith("Basic ")


async def test_an_identity_token_is_exchanged() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.method == "POST"
        assert "authorization" not in request.headers
        form = dict(httpx.QueryParams(request.content.decode()))
        assert (form["grant_type"], form["refresh_token"]) == ("refresh_token", "identity")
        return httpx.Response(200, json={"access_token": "acc3ss"})

    assert await _answer(handler, known=Credentials("me", "", "identity")) == "Bearer acc3ss"


async def test_basic_authentication() -> None:
    assert await _answer(_token, "Basic realm=x", Credentials("me", "pass")) == "Basic bWU6cGFzcw=="
    for known in (Credentials(), Credentials("me")):
        with pytest.raises(NoBasicCredentials, match=r"^no basic auth credentials$"):
            await _answer(_token, "Basic realm=x", known)
    assert await _answer(_token, "Negotiate") is None
    assert await _answer(_token, "") is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "sent no token"),
        (b"[]", "sent no token"),
        (b'{"token": 5}', "sent no token"),
        (b"{", "sent no token"),
        (b"[" * 100_000, "sent no token"),
        (b"{}", "sent an invalid token"),
        (b'{"token": null}', "sent an invalid token"),
        (b'{"token": "with space"}', "sent an invalid token"),
        (b'{"token": "line\\r\\nInjected: x"}', "sent an invalid token"),
        (b'{"token": "' + b"x" * (2 << 20) + b'"}', "sent no token"),
    ],
)
async def test_answers_without_a_usable_token(body: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        await _answer(lambda _: httpx.Response(200, content=body))


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, Unauthorized), (403, Unauthorized), (429, ComeBackLater), (500, ComeBackLater), (503, ComeBackLater)],
)
async def test_a_token_service_that_refuses(status: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        await _answer(lambda _: httpx.Response(status, headers={"Retry-After": "7"}))


async def test_a_realm_that_is_not_a_url() -> None:
    with pytest.raises(ProtocolError, match="an authentication realm that is not a URL"):
        await _answer(_token, 'Bearer realm="file:///etc/passwd"')


async def test_a_token_service_that_does_not_answer() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unavailable, match=r"cannot get a token for registry\.test: refused"):
        await _answer(handler)


@pytest.mark.parametrize(
    "fields", ["a" * 60_000, 'realm="https://x/",scope="' + " ".join(f"{number:x}" for number in range(12_000)) + '"']
)
async def test_a_hostile_challenge_takes_no_time(fields: str) -> None:
    with cpu_of_steps() as steps, pytest.raises(ProtocolError):
        await _answer(_token, f"Bearer {fields}")
    assert steps.longest < 0.05
