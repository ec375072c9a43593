"""Push: to a real registry, only what is missing there; to a registry that breaks off, only the rest."""

import contextlib
import gzip
import http.server
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from appliance.errors import Unauthorized, Unavailable
from appliance.image.known_blobs import Blob
from appliance.image.manifest import DOCKER_LAYER
from appliance.image.progress import Progress
from appliance.image.pull import digest_of
from appliance.image.push import push
from appliance.image.reference import Reference
from appliance.image.store import ImageStore
from appliance.registry import Credentials, Registry
from tests.appliance.image.test_pull import config_of, opened_store
from tests.archives import Pieces, Tar


class _Forgetful:
    """A registry that takes uploads and breaks off in the middle of some: the first `broken` pieces.

    If it `forgets`, it breaks off in the second piece of an upload, without end, and has nothing of the upload then.
    """

    def __init__(self, broken: int, status: int = 0, *, forgets: bool = False) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.started: list[int] = []
        outer = self
        upload = bytearray()

        class Handler(http.server.BaseHTTPRequestHandler):
            def _answer(self, status: int, **headers: str) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self._answer(204, Range=f"0-{len(upload) - 1}", Location=self.path)

            def do_HEAD(self) -> None:
                self._answer(200 if self.path.rpartition("/")[2] in outer.blobs else 404)

            def do_POST(self) -> None:
                upload.clear()
                self._answer(status or 202, Location="/v2/app/blobs/uploads/1?state=x")

            def do_PATCH(self) -> None:
                nonlocal broken
                size = int(self.headers["Content-Length"])
                outer.started.append(int(self.headers["Content-Range"].partition("-")[0]))
                if broken or (forgets and upload):
                    broken -= not forgets
                    upload.extend(self.rfile.read(size // 2))
                    with contextlib.suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                    if forgets:
                        upload.clear()
                    return
                upload.extend(self.rfile.read(size))
                self._answer(202, Location=self.path)

            def do_PUT(self) -> None:
                if "/manifests/" in self.path:
                    outer.manifests[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
                else:
                    outer.blobs[self.path.rpartition("digest=")[2]] = bytes(upload)
                self._answer(201)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @contextlib.contextmanager
    def serving(self) -> Iterator["_Forgetful"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


async def _pushed(store: ImageStore, host: str, tar: bytes, scratch: Path) -> list[dict[str, Any]]:
    layer = await store.add_new_layer(Pieces(tar))
    assert layer.size
    record = await store.add_image(config_of([tar]))
    lines: list[dict[str, Any]] = []

    async def report(line: Progress) -> None:
        lines.append(msgspec.to_builtins(line))

    async with Registry(host, Credentials(), insecure=True, stall=2.0) as registry:
        await push(store, registry, record, Reference(host, "app", "1"), scratch, report)
    return lines


@pytest.mark.parametrize("broken", [0, 1, 3])
async def test_an_upload_that_breaks_off_goes_on_from_there(
    tmp_path: Path, broken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.registry.client._UPLOAD_PAUSE", 0.01)
    monkeypatch.setattr("appliance.image.retry._FIRST_SECONDS", 0.01)
    tar = Tar().add("file", os.urandom(12 << 20)).bytes()
    with _Forgetful(broken).serving() as registry:
        async with opened_store(tmp_path) as store:
            lines = await _pushed(store, registry.host, tar, tmp_path)
        manifest = json.loads(registry.manifests["1"])
        # moby's indentation and order: the manifest's digest is the same for everybody.
        assert registry.manifests["1"] == json.dumps(manifest, indent=3).encode()
        assert list(manifest) == ["schemaVersion", "mediaType", "config", "layers"]
        assert list(manifest["config"]) == list(manifest["layers"][0]) == ["mediaType", "size", "digest"]
        layer = registry.blobs[manifest["layers"][0]["digest"]]
        assert gzip.decompress(layer) == tar
        assert registry.blobs[manifest["config"]["digest"]] == config_of([tar])
        # Nothing was sent twice from its beginning.
        layer_starts = registry.started[:-1]
        assert layer_starts == sorted(layer_starts)
        assert layer_starts.count(0) == 1
        assert lines[-1]["aux"]["Tag"] == "1"


async def test_a_blob_that_a_build_has_brought_is_not_sent_again(tmp_path: Path) -> None:
    """The base of a build came from a registry through BuildKit: its blob is known without a repository."""
    tar = Tar().add("file", b"content").bytes()
    compressed = gzip.compress(tar)
    digest = digest_of(compressed)
    with _Forgetful(0).serving() as registry:
        registry.blobs[digest] = compressed
        async with opened_store(tmp_path) as store:
            layer = await store.add_new_layer(Pieces(tar))
            await store.learn(layer.diff_id, Blob(digest, len(compressed), DOCKER_LAYER, ""))
            lines = await _pushed(store, registry.host, tar, tmp_path)
        assert "Layer already exists" in [line.get("status") for line in lines]
        assert json.loads(registry.manifests["1"])["layers"][0]["digest"] == digest


async def test_a_registry_that_forgets_what_it_has_taken_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.registry.client._UPLOAD_PAUSE", 0.001)
    monkeypatch.setattr("appliance.registry.client._CHUNK", 1 << 10)
    monkeypatch.setattr("appliance.image.retry._FIRST_SECONDS", 0.001)
    with _Forgetful(0, forgets=True).serving() as registry:
        async with opened_store(tmp_path) as store:
            with trio.fail_after(20), pytest.raises(Unavailable):
                await _pushed(store, registry.host, Tar().add("file", os.urandom(5000)).bytes(), tmp_path)
        assert registry.manifests == {}


async def test_a_registry_that_never_gets_on_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.registry.client._UPLOAD_PAUSE", 0.001)
    monkeypatch.setattr("appliance.image.retry._FIRST_SECONDS", 0.001)
    with _Forgetful(1000).serving() as registry:
        async with opened_store(tmp_path) as store:
            with pytest.raises(Unavailable):
                await _pushed(store, registry.host, Tar().add("file", b"x" * 5000).bytes(), tmp_path)
        assert registry.manifests == {}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("tmp")]


async def test_a_push_without_rights_is_denied(tmp_path: Path) -> None:
    with _Forgetful(0, status=403).serving() as registry:
        async with opened_store(tmp_path) as store:
            with pytest.raises(Unauthorized, match="denied: requested access to the resource is denied"):
                await _pushed(store, registry.host, Tar().add("file", b"x").bytes(), tmp_path)
