"""Requests to one registry: where they go, and which credentials they carry."""

import gzip

import pytest
import trio

from appliance.errors import ProtocolError, RemoteFailed, Unavailable
from appliance.registry import Credentials, Proxies
from appliance.registry.session import Session
from appliance.registry.wire import ComeBackLater
from tests.live.registry import LyingRegistry
from tests.steps import cpu_of_steps, in_fresh_process


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
        with pytest.raises(ProtocolError, match="sent an invalid Location for an upload"):
            session.absolute("http://[/1")
        await session.close()


def _bomb(size: int) -> bytes:
    return gzip.compress(bytes(size), 1)


_GZIP = {"Content-Encoding": "gzip"}


async def test_an_encoded_document_is_refused() -> None:
    with LyingRegistry() as server:
        server.answers["/v2/x"] = (200, _GZIP, _bomb(1 << 20), 0.0)
        session = _session(server.host)
        with pytest.raises(ProtocolError, match=r"sent an answer with Content-Encoding gzip: nothing asked for it"):
            await session.get("/v2/x", "")
        await session.close()


def _meet_bombs() -> None:
    """Requests whose answers, redirects and tokens are bombs, each 64 MiB when it is decoded."""
    bomb = _bomb(64 << 20)

    async def meet() -> None:
        with LyingRegistry() as server:
            base = f"http://{server.host}"
            server.answers["/v2/bomb"] = (200, _GZIP, bomb, 0.0)
            server.answers["/v2/moved"] = (302, {**_GZIP, "Location": f"{base}/v2/small"}, bomb, 0.0)
            server.answers["/v2/small"] = (200, {}, b"{}", 0.0)
            challenge = {"WWW-Authenticate": f'Bearer realm="{base}/token"'}
            server.answers["/v2/token"] = (401, challenge, b"{}", 0.0)
            server.answers["/token"] = (200, _GZIP, bomb, 0.0)
            session = _session(server.host)
            for path in ("/v2/bomb", "/v2/token"):
                with pytest.raises(ProtocolError, match="Content-Encoding"):
                    await session.get(path, "")
            assert (await session.get("/v2/moved", "")).content == b"{}"
            await session.close()

    trio.run(meet)


def test_bombs_cost_no_memory() -> None:
    assert in_fresh_process(_meet_bombs).grown < 40 << 20


@pytest.mark.parametrize(
    ("lines", "message"),
    [(3_000, "more than 1000 header lines"), (20_000, "more than 1000 header lines|buffer too long")],
)
async def test_no_head_costs_the_event_loop_time(lines: int, message: str) -> None:
    with LyingRegistry() as server:
        # 20,000 lines are more than the client reads; it depends on the pieces that arrive where the client notices.
        server.answers["/v2/x"] = (200, {f"{number:x}": "" for number in range(lines)}, b"{}", 0.0)
        session = _session(server.host)
        with cpu_of_steps() as steps, pytest.raises((ProtocolError, RemoteFailed), match=message):
            await session.get("/v2/x", "")
        await session.close()
    assert steps.longest < 0.05, steps


async def test_a_long_address_takes_the_event_loop_no_time() -> None:
    with LyingRegistry() as server:
        server.answers["/v2/x"] = (302, {"Location": "http://" + "a." * 25_000}, b"", 0.0)
        session = _session(server.host)
        with cpu_of_steps() as steps, pytest.raises(ProtocolError, match="a header line of more than 16384 bytes"):
            await session.get("/v2/x", "")
        await session.close()
    assert steps.longest < 0.05, steps


async def test_a_registry_elsewhere_cannot_send_us_to_this_host() -> None:
    with LyingRegistry() as server, LyingRegistry() as inside:
        inside.answers["/secret"] = (200, {}, b"secret", 0.0)
        target = f"http://{inside.host}/secret"
        server.answers["/v2/moved"] = (307, {"Location": target}, b"", 0.0)
        server.answers["/v2/token"] = (401, {"WWW-Authenticate": f'Bearer realm="{target}"'}, b"", 0.0)
        session = _session(server.host)
        # As if the registry had another address.
        session._destinations._kinds = set()
        for path in ("/v2/moved", "/v2/token", target):
            with pytest.raises(
                ProtocolError, match=r"a redirect to 127\.0\.0\.1 is refused: it has the loopback address"
            ):
                await session.get(path, "")
        assert inside.asked == []
        session._destinations._kinds = {"loopback"}
        assert (await session.get("/v2/moved", "")).content == b"secret"
        await session.close()


async def test_another_host_cannot_ask_for_the_credentials() -> None:
    """A challenge counts only if it is the registry's own: else the storage's token service would get the password."""
    with LyingRegistry() as server, LyingRegistry() as storage:
        challenge = {"WWW-Authenticate": f'Bearer realm="http://{storage.host}/token"'}
        storage.answers["/blob"] = (401, challenge, b"", 0.0)
        storage.answers["/token"] = (200, {}, b'{"token": "x"}', 0.0)
        server.answers["/v2/moved"] = (307, {"Location": f"http://{storage.host}/blob"}, b"", 0.0)
        server.answers["/v2/"] = (200, {}, b"", 0.0)
        session = _session(server.host)
        assert (await session.get("/v2/moved", "")).status_code == 401
        assert (await session.get(f"http://{storage.host}/blob", "")).status_code == 401
        await session.close()
        assert storage.asked == [("/blob", ""), ("/blob", "")]
