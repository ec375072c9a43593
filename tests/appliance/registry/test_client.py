"""The client of registries, against a server that says what the test wants. Pulls and pushes are in tests/appliance/image."""

from typing import Any

import pytest

from appliance.errors import NotFound, ProtocolError, Unauthorized, Unavailable, VchError
from appliance.registry import ComeBackLater, Credentials, Registry, SearchResult
from appliance.registry import client as module
from tests.live.registry import LyingRegistry
from tests.steps import cpu_of_steps


def _client(server: LyingRegistry, **more: Any) -> Registry:
    return Registry(server.host, Credentials(), insecure=True, stall=2.0, **more)


async def test_a_manifest_with_its_type_and_digest() -> None:
    with LyingRegistry() as server:
        headers = {"Content-Type": "application/json; charset=utf-8", "Docker-Content-Digest": "sha256:x"}
        server.answers["/v2/app/manifests/v1"] = (200, headers, b"{}", 0.0)
        async with _client(server) as registry:
            found = await registry.manifest("app", "v1", "app:v1")
    assert (found.content, found.media_type, found.digest) == (b"{}", "application/json", "sha256:x")


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (401, NotFound, "pull access denied for app:v1"),
        (403, NotFound, "pull access denied for app:v1"),
        (404, NotFound, "manifest for app:v1 not found: manifest unknown"),
        (418, Unavailable, "received unexpected HTTP status 418"),
        (429, ComeBackLater, "toomanyrequests"),
        (500, ComeBackLater, "received unexpected HTTP status 500"),
    ],
)
async def test_what_a_status_means(status: int, error: type[Exception], text: str) -> None:
    with LyingRegistry() as server:
        server.answers["/v2/app/manifests/v1"] = (status, {}, b"{}", 0.0)
        async with _client(server) as registry:
            with pytest.raises(error, match=text):
                await registry.manifest("app", "v1", "app:v1")


async def test_a_registry_that_wants_a_password_and_gets_none() -> None:
    """The oracle is dockerd 20.10."""
    with LyingRegistry() as server:
        server.answers["/v2/app/manifests/v1"] = (401, {"WWW-Authenticate": "Basic realm=x"}, b"{}", 0.0)
        async with _client(server) as registry:
            with pytest.raises(
                VchError, match=rf'^Head "http://{server.host}/v2/app/manifests/v1": no basic auth cred'
            ):
                await registry.manifest("app", "v1", "app:v1")
            digest = "sha256:" + 64 * "a"
            server.answers[f"/v2/app/manifests/{digest}"] = server.answers["/v2/app/manifests/v1"]
            with pytest.raises(
                VchError, match=rf'^Get "http://{server.host}/v2/app/manifests/{digest}": no basic auth cr'
            ):
                await registry.manifest("app", digest, digest)


async def test_tags_come_in_pages() -> None:
    with LyingRegistry() as server:
        more = {"Link": '</v2/app/tags/more?n=2>; rel="next"'}
        server.answers["/v2/app/tags/list"] = (200, more, b'{"name": "app", "tags": ["a", "b"]}', 0.0)
        server.answers["/v2/app/tags/more"] = (200, {}, b'{"tags": ["c"]}', 0.0)
        server.answers["/v2/none/tags/list"] = (200, {}, b'{"tags": null}', 0.0)
        async with _client(server) as registry:
            assert await registry.tags("app") == ["a", "b", "c"]
            assert await registry.tags("none") == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"tags": 5}', b'{"tags": [5]}', b'{"tags": ["%s"]}' % (b"a" * 129), b"[" * 100_000]
)
async def test_answers_that_are_no_list_of_tags(body: bytes) -> None:
    with LyingRegistry() as server:
        server.answers["/v2/app/tags/list"] = (200, {}, body, 0.0)
        async with _client(server) as registry:
            with pytest.raises(ProtocolError, match="sent no list of tags"):
                await registry.tags("app")


async def test_pages_of_tags_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_TAGS", 10)
    with LyingRegistry() as server:
        for here, there in (("list", "more"), ("more", "list")):
            link = {"Link": f'</v2/app/tags/{there}>; rel="next"'}
            server.answers[f"/v2/app/tags/{here}"] = (200, link, b'{"tags": ["a", "b", "c"]}', 0.0)
        async with _client(server) as registry:
            with pytest.raises(ProtocolError, match="has more than 10 tags"):
                await registry.tags("app")


async def test_pages_without_tags_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_PAGES", 10)
    with LyingRegistry() as server:
        for here, there in (("list", "more"), ("more", "list")):
            link = {"Link": f'</v2/app/tags/{there}>; rel="next"'}
            server.answers[f"/v2/app/tags/{here}"] = (200, link, b'{"tags": []}', 0.0)
        async with _client(server) as registry:
            with pytest.raises(ProtocolError, match="sent more than 10 pages of tags"):
                await registry.tags("app")
        assert len(server.asked) == 10


async def test_answers_of_many_values_take_the_event_loop_no_time() -> None:
    """4 MiB may hold 1.4 million of them."""
    with LyingRegistry() as server:
        server.answers["/v2/app/tags/list"] = (200, {}, b'{"tags":[' + b'"",' * 1_300_000 + b'""]}', 0.0)
        server.answers["/v1/search"] = (200, {}, b'{"results":[' + b"{}," * 1_300_000 + b"{}]}", 0.0)
        async with _client(server) as registry:
            with cpu_of_steps() as steps:
                with pytest.raises(ProtocolError, match="sent no list of tags"):
                    await registry.tags("app")
                with pytest.raises(ProtocolError, match="sent a malformed answer"):
                    await registry.search("x", 1)
    assert steps.longest < 0.05, steps


async def test_a_search() -> None:
    with LyingRegistry() as server:
        body = b'{"results": [{"name": "app", "star_count": 5, "is_official": true, "new": 1}, {"description": null}]}'
        server.answers["/v1/search"] = (200, {}, body, 0.0)
        async with _client(server) as registry:
            found = await registry.search("a b", 7)
        assert server.asked[-1][0] == "/v1/search?q=a+b&n=7"
    assert found == [SearchResult("", True, False, "app", 5), SearchResult(None)]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"results": [5]}', b'{"results": [{"star_count": "many"}]}'])
async def test_answers_to_a_search_of_wrong_kinds(body: bytes) -> None:
    with LyingRegistry() as server:
        server.answers["/v1/search"] = (200, {}, body, 0.0)
        async with _client(server) as registry:
            with pytest.raises(ProtocolError, match="sent a malformed answer to a search"):
                await registry.search("x", 1)


async def test_a_login() -> None:
    with LyingRegistry() as server:
        server.answers["/v2/"] = (200, {}, b"{}", 0.0)
        async with _client(server) as registry:
            await registry.ping()
        server.answers["/v2/"] = (401, {}, b"{}", 0.0)
        async with _client(server) as registry:
            with pytest.raises(Unauthorized, match="401 Unauthorized"):
                await registry.ping()


async def test_a_mirror_is_asked_first_and_what_it_lacks_comes_from_the_registry() -> None:
    with LyingRegistry() as server, LyingRegistry() as mirror:
        mirror.answers["/v2/app/manifests/v1"] = (200, {}, b"of the mirror", 0.0)
        for name in ("v1", "v2"):
            server.answers[f"/v2/app/manifests/{name}"] = (200, {}, b"of the registry", 0.0)
        async with _client(server, mirrors=[f"http://{mirror.host}/"]) as registry:
            assert (await registry.manifest("app", "v1", "x")).content == b"of the mirror"
            assert (await registry.manifest("app", "v2", "x")).content == b"of the registry"


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_blob_from_a_byte_on(ranges: bool) -> None:
    with LyingRegistry() as server:
        server.answers["/v2/app/blobs/d"] = (200, {"ranges": ""} if ranges else {}, b"0123456789", 0.0)
        async with _client(server) as registry, registry.blob("app", "d", 4) as pieces:
            assert b"".join([piece async for piece in pieces]) == b"456789"
