"""Images to and from registries. Shared downloads are in tests/appliance/image/test_pull.py."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from appliance.engine.model.events import EventBus
from appliance.engine.transfers import Transfers
from appliance.errors import Forbidden, InvalidParameter, NotFound, ProtocolError, Unavailable
from appliance.image.platform import Platform
from appliance.image.progress import Progress
from appliance.image.reference import Reference, parse_reference
from appliance.image.store import ImageStore
from appliance.registry import Credentials, Proxies, Registry
from tests.appliance.image.test_pull import Lie, config_of, opened_store
from tests.archives import Pieces, Tar
from tests.live.registry import LyingRegistry

_ANYBODY = Credentials()


@contextlib.asynccontextmanager
async def _opened(root: Path, allowed: tuple[str, ...] = ()) -> AsyncIterator[tuple[Transfers, ImageStore, EventBus]]:
    def dial(host: str, known: Credentials) -> Registry:
        return Registry(host, known, insecure=True, stall=2.0)

    async with opened_store(root) as store, trio.open_nursery() as nursery:
        events = EventBus()
        yield Transfers(store, events, dial, allowed, root, nursery, Proxies()), store, events
        nursery.cancel_scope.cancel()


class _Lines:
    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    async def __call__(self, line: Progress) -> None:
        self.all.append(msgspec.to_builtins(line))


# -- pull and push ---------------------------------------------------------------------------------------------------------


async def test_a_pull_reports_progress_and_publishes_an_event(tmp_path: Path) -> None:
    with LyingRegistry() as server:
        Lie(server)
        async with _opened(tmp_path) as (transfers, store, events):
            lines = _Lines()
            reference = parse_reference(f"{server.host}/app:latest")
            await transfers.pull(reference, _ANYBODY, Platform(), lines)
            assert lines.all[0] == {"status": "Pulling from app", "id": "latest"}
            assert lines.all[-1]["status"] == f"Status: Downloaded newer image for {server.host}/app:latest"
            assert len(store.all()) == 1
            past = events.past(0)
            assert [(event.action, event.id, event.attributes["name"]) for event in past] == [
                ("pull", f"{server.host}/app:latest", f"{server.host}/app")
            ]


async def test_all_tags_of_a_repository(tmp_path: Path) -> None:
    with LyingRegistry() as server:
        lie = Lie(server)
        latest = server.answers["/v2/app/manifests/latest"]
        server.answers["/v2/app/manifests/v1"] = latest
        server.answers["/v2/app/tags/list"] = (200, {}, b'{"tags": ["v1", "latest"]}', 0.0)
        server.answers["/v2/empty/tags/list"] = (200, {}, b'{"tags": []}', 0.0)
        async with _opened(tmp_path) as (transfers, store, _):
            await transfers.pull(Reference(server.host, "app"), _ANYBODY, Platform(), _Lines())
            (record,) = store.all()
            assert record.references == [f"{server.host}/app:latest", f"{server.host}/app:v1"]
            with pytest.raises(NotFound, match="no tags for "):
                await transfers.pull(Reference(server.host, "empty"), _ANYBODY, Platform(), _Lines())
        assert lie.tar


async def test_a_pull_that_fails_is_the_clients_error_and_can_be_repeated(tmp_path: Path) -> None:
    with LyingRegistry() as server:
        async with _opened(tmp_path) as (transfers, store, events):
            reference = parse_reference(f"{server.host}/app:latest")
            for _ in range(2):
                with pytest.raises(NotFound, match="manifest unknown"):
                    await transfers.pull(reference, _ANYBODY, Platform(), _Lines())
            Lie(server)
            await transfers.pull(reference, _ANYBODY, Platform(), _Lines())
            assert len(store.all()) == 1
            assert len(events.past(0)) == 1


async def test_an_unexpected_error_ends_one_pull_and_not_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> str:
        raise RuntimeError("a bug")

    monkeypatch.setattr("appliance.engine.transfers.pull", fail)
    async with _opened(tmp_path) as (transfers, _, _):
        with pytest.raises(Exception, match="a bug"):
            await transfers.pull(parse_reference("app:v1"), _ANYBODY, Platform(), _Lines())
    assert "the pull of app:v1 failed" in caplog.text


async def test_only_allowed_registries(tmp_path: Path) -> None:
    async with _opened(tmp_path, ("mine.test",)) as (transfers, _, _):
        elsewhere = parse_reference("app:v1")
        for work in (
            lambda: transfers.pull(elsewhere, _ANYBODY, Platform(), _Lines()),
            lambda: transfers.push(elsewhere, _ANYBODY, _Lines()),
            lambda: transfers.log_in("", _ANYBODY),
            lambda: transfers.search("x", _ANYBODY, 5),
            lambda: transfers.distribution(elsewhere, _ANYBODY),
        ):
            with pytest.raises(
                Forbidden, match=r"registry docker\.io is not allowed; the allowed registries are mine\.test"
            ):
                await work()


async def test_what_cannot_be_pushed_because_it_is_not_here(tmp_path: Path) -> None:
    async with _opened(tmp_path) as (transfers, store, _):
        with pytest.raises(NotFound, match="An image does not exist locally with the tag: app"):
            await transfers.push(parse_reference("app"), _ANYBODY, _Lines())
        await store.add_new_layer(Pieces(Tar().add("a", b"x").bytes()))
        record = await store.add_image(config_of([Tar().add("a", b"x").bytes()]))
        await store.tag(record, parse_reference("app:v1"), 0.0)
        with pytest.raises(NotFound, match="tag does not exist: app:v2"):
            await transfers.push(parse_reference("app:v2"), _ANYBODY, _Lines())


# -- questions -------------------------------------------------------------------------------------------------------------


async def test_the_platforms_of_an_index_and_of_a_manifest(tmp_path: Path) -> None:
    with LyingRegistry() as server:
        Lie(server)
        index = json.dumps(
            {
                "manifests": [
                    {"digest": "sha256:x", "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
                    {"digest": "sha256:y", "platform": {"os": "windows", "architecture": "amd64", "os.version": "10"}},
                    {"digest": "sha256:z"},
                ]
            }
        ).encode()
        server.answers["/v2/app/manifests/index"] = (200, {"Content-Type": "the/type"}, index, 0.0)
        async with _opened(tmp_path) as (transfers, _, _):
            found = await transfers.distribution(parse_reference(f"{server.host}/app:index"), _ANYBODY)
            assert msgspec.to_builtins(found) == {
                "Descriptor": {
                    "mediaType": "the/type",
                    "size": len(index),
                    "digest": f"sha256:{hashlib.sha256(index).hexdigest()}",
                },
                "Platforms": [
                    {"os": "linux", "architecture": "arm64", "variant": "v8"},
                    {"os": "windows", "architecture": "amd64", "os.version": "10"},
                ],
            }
            found = await transfers.distribution(parse_reference(f"{server.host}/app:latest"), _ANYBODY)
            assert msgspec.to_builtins(found.platforms) == [{"os": "linux", "architecture": "amd64"}]
            server.answers["/v2/app/manifests/bad"] = (200, {}, b'{"manifests": 5}', 0.0)
            with pytest.raises(ProtocolError, match="malformed manifest of "):
                await transfers.distribution(parse_reference(f"{server.host}/app:bad"), _ANYBODY)


async def test_a_search_goes_to_the_host_that_the_term_begins_with(tmp_path: Path) -> None:
    with LyingRegistry() as server:
        server.answers["/v1/search"] = (200, {}, b'{"results": [{"name": "app"}]}', 0.0)
        async with _opened(tmp_path) as (transfers, _, _):
            (found,) = await transfers.search(f"{server.host}/team/app", _ANYBODY, 5)
        assert found.name == "app"
        assert server.asked[-1][0] == "/v1/search?q=team%2Fapp&n=5"


# -- docker import URL -----------------------------------------------------------------------------------------------------


@pytest.fixture
def web() -> Iterator[str]:
    """A web server that has /file; yields its host and port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/file" else 404)
            self.send_header("Content-Length", "300000")
            self.end_headers()
            self.wfile.write(b"x" * 300_000)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_tar_from_the_web(tmp_path: Path, web: str) -> None:
    async with _opened(tmp_path) as (transfers, _, _):
        for url in (f"http://{web}/file", f"{web}/file"):
            assert sum([len(piece) async for piece in transfers.fetch(url)]) == 300_000
        for url, error in (
            (f"http://{web}/none", Unavailable),
            ("http://127.0.0.1:1/", Unavailable),
            ("file:///etc/passwd", InvalidParameter),
        ):
            with pytest.raises(error):
                _ = [piece async for piece in transfers.fetch(url)]
