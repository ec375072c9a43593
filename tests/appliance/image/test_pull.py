"""Pull: from a real registry what docker would get, from a lying one an error and nothing half-made."""

import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import zstandard

from appliance.errors import NotFound, ProtocolError, Unavailable, VchError
from appliance.image.pull import pull
from appliance.image.reference import parse_reference
from appliance.image.store import ImageStore
from appliance.registry import Credentials, Registry
from appliance.store import Database
from tests.archives import Tar
from tests.live.registry import OCI_INDEX, LyingRegistry, Pusher, image_manifest, real_registry


def tars() -> list[bytes]:
    return [Tar().add(f"file{number}", b"%d" % number * 5000).bytes() for number in range(3)]


def config_of(layers: list[bytes]) -> bytes:
    ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    return json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}}
    ).encode()


@asynccontextmanager
async def opened_store(root: Path) -> AsyncIterator[ImageStore]:
    async with Database.open(root / "state.db") as database:
        yield ImageStore(database, root)


async def pulled(store: ImageStore, host: str, name: str, known: Credentials | None = None) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []

    async def report(line: dict[str, Any]) -> None:
        lines.append(line)

    async with Registry(host, known or Credentials(), insecure=True, stall=1.0) as registry:
        await pull(store, registry, parse_reference(f"{host}/{name}").with_default_tag(), report)
    return lines


async def test_a_multi_platform_image_with_three_compressions(tmp_path: Path) -> None:
    layers = tars()
    blobs = [layers[0], gzip.compress(layers[1]), zstandard.compress(layers[2])]
    config = config_of(layers)
    with real_registry(tmp_path) as host:
        pusher = Pusher(host, "team/app")
        wanted = pusher.manifest("", image_manifest(config, blobs, pusher.blob))
        other = pusher.manifest("", image_manifest(config_of([]), [], pusher.blob))
        index = pusher.manifest(
            "v1",
            {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [
                    {**other, "platform": {"os": "linux", "architecture": "arm64"}},
                    {**wanted, "platform": {"os": "linux", "architecture": "amd64"}},
                ],
            },
        )
        async with opened_store(tmp_path) as store:
            lines = await pulled(store, host, "team/app:v1")
            assert lines[-2] == {"status": f"Digest: {index['digest']}"}
            assert lines[-1]["status"].startswith("Status: Downloaded newer image for")
            record = store.get(f"{host}/team/app:v1")
            assert record.id == f"sha256:{hashlib.sha256(config).hexdigest()}"
            assert record.digests == [f"{host}/team/app@{index['digest']}"]
            assert all(path.exists() for path in store.layer_paths(record.id))
            again = await pulled(store, host, "team/app:v1")
            assert again[-1]["status"].startswith("Status: Image is up to date for")
            assert [line["status"] for line in again[1:4]] == ["Already exists"] * 3
            by_digest = await pulled(store, host, f"team/app@{index['digest']}")
            assert by_digest[-1]["status"].startswith("Status: Image is up to date")
            with pytest.raises(NotFound, match="manifest unknown"):
                await pulled(store, host, "team/app:v2")
        async with opened_store(tmp_path) as store:
            assert store.get(f"{host}/team/app:v1").id == record.id


class Lie:
    """An honest image in a lying registry, to be falsified piece by piece."""

    def __init__(self, registry: LyingRegistry) -> None:
        self.registry = registry
        self.tar = Tar().add("file", b"content" * 3000).bytes()
        self.layer = gzip.compress(self.tar)
        self.config = config_of([self.tar])
        self.manifest = image_manifest(self.config, [self.layer], self.put)
        self.serve_manifest()

    def put(self, data: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.registry.answers[f"/v2/app/blobs/{digest}"] = (200, {}, data, 0.0)
        return {"digest": digest, "size": len(data)}

    def serve_manifest(self) -> None:
        self.registry.answers["/v2/app/manifests/latest"] = (
            200, {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}, json.dumps(self.manifest).encode(), 0.0,
        )  # fmt: skip

    def path_of(self, part: str) -> str:
        entry: Any = self.manifest["config"] if part == "config" else self.manifest["layers"][0]  # type: ignore[index]
        return f"/v2/app/blobs/{entry['digest']}"


async def refused(tmp_path: Path, lie: Lie, error: type[VchError], text: str) -> None:
    async with opened_store(tmp_path) as store:
        with trio.fail_after(30), pytest.raises(error, match=text):
            await pulled(store, lie.registry.host, "app")
        assert store.all() == []
    assert list((tmp_path / "layers").iterdir()) == []


async def test_the_honest_image_is_pulled(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        Lie(registry)
        async with opened_store(tmp_path) as store:
            await pulled(store, registry.host, "app")
            assert len(store.all()) == 1


async def test_changed_bytes_of_a_layer(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        other = gzip.compress(Tar().add("file", b"another" * 3000).bytes())[: len(lie.layer)]
        registry.answers[lie.path_of("layer")] = (200, {}, other, 0.0)
        await refused(tmp_path, lie, ProtocolError, "verification failed|decompressed|EOF")


async def test_changed_config(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        registry.answers[lie.path_of("config")] = (200, {}, lie.config + b" ", 0.0)
        await refused(tmp_path, lie, ProtocolError, "config verification failed")


async def test_a_layer_that_is_not_what_the_config_says(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        lie.manifest = image_manifest(config_of([b"something else"]), [lie.layer], lie.put)
        lie.serve_manifest()
        await refused(tmp_path, lie, ProtocolError, "its config says")


async def test_a_layer_larger_than_said(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        registry.answers[lie.path_of("layer")] = (200, {}, lie.layer + bytes(100_000), 0.0)
        await refused(tmp_path, lie, ProtocolError, "larger than its manifest says|verification failed")


async def test_a_stalling_registry(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        registry.answers[lie.path_of("layer")] = (200, {}, lie.layer, 20.0)
        await refused(tmp_path, lie, VchError, "ReadTimeout|EOF")


@pytest.mark.parametrize(
    "manifest", [b"[]", b"{", b"{}", b'{"config": 5, "layers": []}', b'{"manifests": [{}]}', b"\xff"]
)
async def test_malformed_manifests(tmp_path: Path, manifest: bytes) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        registry.answers["/v2/app/manifests/latest"] = (200, {}, manifest, 0.0)
        await refused(tmp_path, lie, VchError, "malformed|no matching manifest")


async def test_token_authentication(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        challenge = f'Bearer realm="http://{registry.host}/token",service="s",scope="repository:app:pull"'
        registry.answers["/token"] = (200, {}, b'{"token": "t0k"}', 0.0)
        for path, (status, headers, body, pause) in list(registry.answers.items()):
            if path.startswith("/v2/"):
                registry.answers[path] = (
                    status,
                    {**headers, "authorization": "Bearer t0k", "challenge": challenge},
                    body,
                    pause,
                )
        async with opened_store(tmp_path) as store:
            await pulled(store, registry.host, "app", Credentials("me", "pass"))
            assert len(store.all()) == 1
        assert ("/token?service=s&scope=repository%3Aapp%3Apull", "Basic bWU6cGFzcw==") in registry.asked
        del lie


async def test_nobody_listens(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        with pytest.raises(Unavailable):
            await pulled(store, "127.0.0.1:1", "app")


async def test_basic_authentication(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        Lie(registry)
        for path, (status, headers, body, pause) in list(registry.answers.items()):
            wanted = {**headers, "authorization": "Basic bWU6cGFzcw==", "challenge": 'Basic realm="here"'}
            registry.answers[path] = (status, wanted, body, pause)
        async with opened_store(tmp_path) as store:
            with pytest.raises(NotFound, match="pull access denied"):
                await pulled(store, registry.host, "app", Credentials("me", "wrong"))
            with pytest.raises(NotFound, match="may require 'docker login'"):
                await pulled(store, registry.host, "app")
            await pulled(store, registry.host, "app", Credentials("me", "pass"))
            assert len(store.all()) == 1
