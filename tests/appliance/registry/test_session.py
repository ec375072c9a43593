"""Requests to one registry: where they go, and which credentials they carry."""

import pytest

from appliance.errors import ProtocolError, Unavailable
from appliance.registry import Credentials, Proxies
from appliance.registry.session import Session
from appliance.registry.wire import ComeBackLater
from tests.live.registry import LyingRegistry


def _session(host: str, *mirrors: str) -> Session:
    return Session(
        host,
        Credentials("me", "pass"),
        insecure=True,
        stall=2.0,
        mirrors=mirrors,
        certificates=None,
        proxies=Proxies(),
    )


async def test_the_address_that_answers_is_kept_and_credentials_are_sent_when_they_are_wanted() -> None:
    with LyingRegistry() as server:
        wanted = {"authorization": "Basic bWU6cGFzcw==", "challenge": "Basic realm=x"}
        server.answers["/v2/"] = (200, wanted, b"{}", 0.0)
        session = _session(server.host)
        assert session.base == ""
        for _ in range(2):
            assert (await session.get("/v2/", "scope")).status_code == 200
        await session.close()
        assert session.base == f"http://{server.host}"
        assert [header for _, header in server.asked] == ["", wanted["authorization"], wanted["authorization"]]


async def test_another_host_does_not_see_the_credentials() -> None:
    with LyingRegistry() as server, LyingRegistry() as storage:
        server.answers["/v2/"] = (200, {"authorization": "Basic bWU6cGFzcw==", "challenge": "Basic realm=x"}, b"", 0.0)
        storage.answers["/upload"] = (200, {}, b"", 0.0)
        session = _session(server.host)
        await session.get("/v2/", "")
        async with session.request("GET", f"http://{storage.host}/upload", "") as response:
            assert response.status_code == 200
        await session.close()
        assert storage.asked == [("/upload", "")]


async def test_a_registry_that_was_never_reached_is_not_asked_again() -> None:
    session = _session("127.0.0.1:1")
    with pytest.raises(Unavailable, match="connection refused") as caught:
        await session.get("/v2/", "")
    assert not isinstance(caught.value, ComeBackLater)
    await session.close()


async def test_a_document_is_bounded() -> None:
    with LyingRegistry() as server:
        server.answers["/v2/x"] = (200, {}, b" " * (5 << 20), 0.0)
        session = _session(server.host)
        with pytest.raises(ProtocolError, match="sent more than"):
            await session.get("/v2/x", "")
        await session.close()


async def test_the_url_of_an_upload_may_be_relative() -> None:
    with LyingRegistry() as server:
        server.answers["/v2/"] = (200, {}, b"", 0.0)
        session = _session(server.host)
        await session.get("/v2/", "")
        assert session.absolute("/v2/app/blobs/uploads/1?x=y") == f"http://{server.host}/v2/app/blobs/uploads/1?x=y"
        assert session.absolute("https://elsewhere.test/1") == "https://elsewhere.test/1"
        with pytest.raises(ProtocolError, match="sent no Location for an upload"):
            session.absolute("")
        await session.close()
