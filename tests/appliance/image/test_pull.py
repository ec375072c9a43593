"""Pull: from a real registry what docker would get, from a lying one an error and nothing half-made."""

import gzip
import hashlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from backports import zstd

from appliance.engine.model.events import EventBus
from appliance.engine.transfers import Transfers
from appliance.errors import NotFound, ProtocolError, Unavailable, VchError
from appliance.image.conversion import Converters
from appliance.image.platform import Platform
from appliance.image.progress import Progress
from appliance.image.pull import pull
from appliance.image.reference import parse_reference
from appliance.image.store import ImageStore
from appliance.registry import Credentials, Proxies, Registry
from appliance.store import Database
from tests.archives import Pieces, Tar
from tests.live.registry import OCI_INDEX, LyingRegistry, Pusher, image_manifest, real_registry


def tars() -> list[bytes]:
    return [Tar().add(f"file{number}", b"%d" % number * 5000).bytes() for number in range(3)]


def config_of(layers: list[bytes]) -> bytes:
    ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    return json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}}
    ).encode()


@asynccontextmanager
async def opened_store(
    root: Path,
    layers: Path | None = None,
    on_layer_gone: Callable[[Path], None] = lambda _: None,
    admit: Callable[[int], Awaitable[None]] | None = None,
    room: Callable[[], Awaitable[int | None]] | None = None,
) -> AsyncIterator[ImageStore]:
    """A store with its database in `root`, and its layers below `layers`, by default below `root`, too."""
    async with Database.open(root / "state.db") as database, trio.open_nursery() as nursery:
        yield ImageStore(database, layers or root, Converters(nursery), on_layer_gone, admit, room)
        nursery.cancel_scope.cancel()


async def pulled(store: ImageStore, host: str, name: str, known: Credentials | None = None) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []

    async def report(line: Progress) -> None:
        lines.append(msgspec.to_builtins(line))

    async with Registry(host, known or Credentials(), insecure=True, stall=1.0) as registry:
        await pull(store, registry, parse_reference(f"{host}/{name}").with_default_tag(), report)
    return lines


async def test_a_multi_platform_image_with_three_compressions(tmp_path: Path) -> None:
    layers = tars()
    blobs = [layers[0], gzip.compress(layers[1]), zstd.compress(layers[2])]
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
            200,
            {"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
            json.dumps(self.manifest).encode(),
            0.0,
        )

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


async def test_a_layer_larger_than_its_manifest_says(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        registry.answers[lie.path_of("layer")] = (200, {}, lie.layer + bytes(100_000), 0.0)
        await refused(tmp_path, lie, ProtocolError, "larger than its manifest says|verification failed")


@pytest.mark.slow  # it waits for real timeouts
async def test_a_stalling_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.image.retry._FIRST_SECONDS", 0.01)
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


async def test_an_index_with_another_kind_of_digest(tmp_path: Path) -> None:
    """The registry could answer with anything under a name that is not a SHA-256."""
    with LyingRegistry() as registry:
        lie = Lie(registry)
        registry.answers["/v2/app/manifests/sha512:x"] = registry.answers["/v2/app/manifests/latest"]
        index = json.dumps({"manifests": [{"digest": "sha512:x"}]}).encode()
        registry.answers["/v2/app/manifests/latest"] = (200, {}, index, 0.0)
        await refused(tmp_path, lie, ProtocolError, "manifest verification failed for digest sha512:x")


async def test_token_authentication(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        challenge = f'Bearer realm="http://{registry.host}/token",service="s",scope="repository:app:pull"'
        registry.answers["/token"] = (200, {}, b'{"token": "t0k"}', 0.0)
        for path, (status, headers, body, pause) in registry.told():
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
        assert ("/token?service=s&scope=repository%3Aapp%3Apull&account=me", "Basic bWU6cGFzcw==") in registry.asked
        del lie


async def test_a_registry_that_does_not_answer(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        with pytest.raises(Unavailable):
            await pulled(store, "127.0.0.1:1", "app")


async def test_basic_authentication(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        Lie(registry)
        for path, (status, headers, body, pause) in registry.told():
            wanted = {**headers, "authorization": "Basic bWU6cGFzcw==", "challenge": 'Basic realm="here"'}
            registry.answers[path] = (status, wanted, body, pause)
        async with opened_store(tmp_path) as store:
            with pytest.raises(NotFound, match="pull access denied"):
                await pulled(store, registry.host, "app", Credentials("me", "wrong"))
            with pytest.raises(VchError, match="no basic auth credentials"):
                await pulled(store, registry.host, "app")
            await pulled(store, registry.host, "app", Credentials("me", "pass"))
            assert len(store.all()) == 1


# -- what fails for now ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_layer_that_breaks_off_goes_on_from_there(tmp_path: Path, ranges: bool) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        more = {"ranges": ""} if ranges else {}
        whole = (200, more, lie.layer, 0.0)
        registry.answers[lie.path_of("layer")] = [(200, {**more, "cut": ""}, lie.layer, 0.0), whole]
        async with opened_store(tmp_path) as store:
            await pulled(store, registry.host, "app")
            assert len(store.all()) == 1
        assert f"bytes={len(lie.layer) // 2}-" in registry.ranges


async def test_a_registry_that_is_busy_is_asked_again_when_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.image.retry._FIRST_SECONDS", 0.01)
    with LyingRegistry() as registry:
        lie = Lie(registry)
        pauses = {"/v2/app/manifests/latest": "1", lie.path_of("layer"): "0", lie.path_of("config"): "0"}
        for path, pause in pauses.items():
            honest = registry.answers[path]
            assert isinstance(honest, tuple)
            registry.answers[path] = [(429, {"Retry-After": pause}, b"{}", 0.0), (503, {}, b"{}", 0.0), honest]
        async with opened_store(tmp_path) as store:
            started = trio.current_time()
            await pulled(store, registry.host, "app")
            assert trio.current_time() - started >= 1
            assert len(store.all()) == 1


@pytest.mark.parametrize("status", [429, 500, 502])
async def test_a_registry_that_stays_busy_is_given_up(
    tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.image.retry._FIRST_SECONDS", 0.01)
    with LyingRegistry() as registry:
        lie = Lie(registry)
        registry.answers[lie.path_of("layer")] = (status, {}, b"{}", 0.0)
        await refused(tmp_path, lie, Unavailable, "toomanyrequests|unexpected HTTP status")
        # vchd does not wait for an hour, even if the registry asks for it.
        registry.answers[lie.path_of("layer")] = (status, {"Retry-After": "3600"}, b"{}", 0.0)
        await refused(tmp_path, lie, Unavailable, "toomanyrequests|unexpected HTTP status")


async def test_redirects_without_end(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        registry.answers["/v2/app/manifests/latest"] = (307, {"Location": "/v2/app/manifests/latest"}, b"", 0.0)
        await refused(tmp_path, lie, ProtocolError, "redirects without end")


_NO_PLACES = [
    "http://a..b/",
    f"https://{'a' * 64}.example/",
    "http://[::1",
    "http://127.0.0.1:99999/",
    "gopher://127.0.0.1/",
    "http://\xe9\xff/",
]


@pytest.mark.parametrize("place", _NO_PLACES)
async def test_redirects_to_invalid_urls(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.image.retry._FIRST_SECONDS", 0.01)
    with LyingRegistry() as registry:
        lie = Lie(registry)
        for path in (lie.path_of("layer"), lie.path_of("config"), "/v2/app/manifests/latest"):
            registry.answers[path] = (307, {"Location": place}, b"", 0.0)
            await refused(tmp_path, lie, VchError, ".")


@pytest.mark.parametrize("place", [*_NO_PLACES, ""])
async def test_token_services_at_invalid_urls(tmp_path: Path, place: str) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        header = f'Bearer realm="{place}",service="s"'
        registry.answers["/v2/app/manifests/latest"] = (401, {"WWW-Authenticate": header}, b"", 0.0)
        await refused(tmp_path, lie, VchError, ".")


async def test_a_manifest_too_large(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        registry.answers["/v2/app/manifests/latest"] = (200, {}, b" " * (10 << 20), 0.0)
        await refused(tmp_path, lie, ProtocolError, "sent more than")


@pytest.mark.slow  # its size is the point
async def test_a_bomb_in_a_layer(tmp_path: Path) -> None:
    """Zeros without end behind the archive: counted for the digest, kept nowhere."""
    with LyingRegistry() as registry:
        lie = Lie(registry)
        bomb = gzip.compress(lie.tar + bytes(300 << 20))
        lie.manifest = image_manifest(lie.config, [bomb], lie.put)
        lie.serve_manifest()
        await refused(tmp_path, lie, ProtocolError, "its config says")


@pytest.mark.parametrize("part", ["config", "layer"])
async def test_artifacts_that_are_not_images(tmp_path: Path, part: str) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        entry: Any = lie.manifest["config"] if part == "config" else lie.manifest["layers"][0]  # type: ignore[index]
        entry["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
        lie.serve_manifest()
        await refused(tmp_path, lie, ProtocolError, "unsupported media type application/vnd.cncf.helm.config")


async def test_a_manifest_of_schema_1(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        old = json.dumps({"schemaVersion": 1, "name": "app", "fsLayers": []}).encode()
        kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
        registry.answers["/v2/app/manifests/latest"] = (200, {"Content-Type": kind}, old, 0.0)
        await refused(tmp_path, lie, ProtocolError, "manifests of schema 1 are not supported")


async def until(test: Callable[[], bool]) -> None:
    while not test():  # noqa: ASYNC110
        await trio.sleep(0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    if os.geteuid():
        pytest.skip("mounts a file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "small", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        tar = Tar().add("file", os.urandom(4 << 20)).bytes()
        lie.manifest = image_manifest(config_of([tar]), [gzip.compress(tar)], lie.put)
        lie.serve_manifest()
        async with opened_store(tmp_path, small_disk) as store:
            with pytest.raises(Unavailable, match="failed to register layer: No space left on device"):
                await pulled(store, registry.host, "app")
            assert list((small_disk / "layers").iterdir()) == []


# -- several at once --------------------------------------------------------------------------------------------------------


async def test_two_clients_share_one_download_and_the_last_one_ends_it(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        registry.answers[lie.path_of("layer")] = (200, {}, lie.layer, 3600.0)
        reference = parse_reference(f"{registry.host}/app").with_default_tag()
        async with opened_store(tmp_path) as store, trio.open_nursery() as nursery:

            def dial(host: str, known: Credentials) -> Registry:
                return Registry(host, known, insecure=True)

            transfers = Transfers(store, EventBus(), dial, (), tmp_path, nursery, Proxies())
            heard: list[list[str]] = [[], []]
            scopes = [trio.CancelScope(), trio.CancelScope()]

            async def client(number: int) -> None:
                async def report(line: Progress) -> None:
                    heard[number].append(str(line.status))

                with scopes[number]:
                    await transfers.pull(reference, Credentials(), Platform(), report)

            for number in range(2):
                nursery.start_soon(client, number)
                with trio.fail_after(20):
                    await until(lambda number=number: "Pulling fs layer" in heard[number])  # type: ignore[misc]
            asked = [path for path, _ in registry.asked if path == lie.path_of("layer")]
            scopes[0].cancel()
            with trio.fail_after(20):
                await until(lambda: bool(list((tmp_path / "layers").glob("*.part"))))
            scopes[1].cancel()
            with trio.fail_after(20):
                await until(lambda: not list((tmp_path / "layers").iterdir()))
            assert len(asked) <= 1
            assert store.all() == []
            # A later client starts a new download.
            registry.answers[lie.path_of("layer")] = (200, {}, lie.layer, 0.0)
            scopes[0] = trio.CancelScope()
            with trio.fail_after(20):
                await client(0)
            assert len(store.all()) == 1
            nursery.cancel_scope.cancel()


async def test_files_of_a_killed_pull_are_removed(tmp_path: Path) -> None:
    with LyingRegistry() as registry:
        lie = Lie(registry)
        async with opened_store(tmp_path) as store:
            await pulled(store, registry.host, "app")
            kept = sorted(path.name for path in (tmp_path / "layers").iterdir())
            other = Tar().add("other", b"x").bytes()
            await store.add_new_layer(Pieces(other))
            (tmp_path / "layers/half.part").write_bytes(b"x")
            (tmp_path / "layers/half.part.recipe").write_bytes(b"x")
        async with opened_store(tmp_path) as store:
            await store.sweep()
            assert sorted(path.name for path in (tmp_path / "layers").iterdir()) == kept
            assert len(kept) == 2
            assert b"".join(store.tar_of(store.config(store.all()[0].id).diff_ids[0])) == lie.tar
