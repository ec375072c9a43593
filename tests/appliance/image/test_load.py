"""`docker load`: archives of every Docker, OCI layouts, and hostile ones."""

import gzip
import hashlib
import json
import os
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import InvalidParameter, ProtocolError, VchError
from appliance.image import load as module
from appliance.image.archive import receive
from appliance.image.load import load
from appliance.image.store import ImageStore
from tests.appliance.image.test_pull import config_of, opened_store
from tests.appliance.image.test_save import archive_of
from tests.archives import Pieces, Tar

_LAYER = Tar().add("file", b"content" * 3000).bytes()


async def _loaded(store: ImageStore, archive: bytes, folder: Path) -> list[tuple[str, str | None]]:
    async def body() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(archive), 100_000):
            yield archive[start : start + 100_000]

    path = folder / "archive"
    with open(path, "wb") as file:
        await receive(body(), file, folder)
    return [(image.record.id, image.name or None) async for image in load(store, path)]


def _id(config: bytes) -> str:
    return f"sha256:{hashlib.sha256(config).hexdigest()}"


def _docker(entries: object, **members: bytes) -> bytes:
    """An archive as docker save before 25 wrote it."""
    tar = Tar()
    for name, data in members.items():
        tar.add(name.replace("_", "/"), data)
    return tar.add("manifest.json", json.dumps(entries).encode()).bytes()


class _Layout:
    """An OCI image layout."""

    def __init__(self) -> None:
        self.tar = Tar()

    def put(self, data: bytes) -> dict[str, Any]:
        value = hashlib.sha256(data).hexdigest()
        self.tar.add(f"blobs/sha256/{value}", data)
        return {"digest": f"sha256:{value}", "size": len(data)}

    def image(self, config: bytes, *layers: bytes) -> dict[str, Any]:
        manifest = {"config": self.put(config), "layers": [self.put(layer) for layer in layers]}
        return self.put(json.dumps(manifest).encode())

    def finish(self, *manifests: dict[str, Any]) -> bytes:
        return self.tar.add("index.json", json.dumps({"manifests": manifests}).encode()).bytes()


async def test_what_save_has_written_is_loaded(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    async with opened_store(first) as store:
        await store.add_new_layer(Pieces(_LAYER))
        record = await store.add_image(config_of([_LAYER]))
        archive = await archive_of(store, [(record, ["docker.io/library/app:v1", "docker.io/library/other:v1"])])
    async with opened_store(second) as store:
        assert await _loaded(store, archive, tmp_path) == [(record.id, "app:v1"), (record.id, "other:v1")]
        assert store.get("app:v1").config == record.config
        assert b"".join(store.tar_of(store.config(record.id).diff_ids[0])) == _LAYER
        # Again: nothing new.
        await _loaded(store, archive, tmp_path)
        assert len(store.all()) == 1


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
async def test_an_archive_of_an_old_docker(tmp_path: Path, compress: Any) -> None:
    config = config_of([_LAYER])
    entry = {"Config": "config.json", "RepoTags": ["app"], "Layers": ["1/layer.tar"]}
    archive = compress(_docker([entry], **{"config.json": config, "1_layer.tar": _LAYER}))
    async with opened_store(tmp_path) as store:
        assert await _loaded(store, archive, tmp_path) == [(_id(config), "app:latest")]


async def test_a_layer_that_is_a_link_to_another_images(tmp_path: Path) -> None:
    config = config_of([_LAYER])
    tar = Tar().add("1/layer.tar", _LAYER).add("config.json", config)
    tar.add("2/layer.tar", kind=tarfile.SYMTYPE, linkname="../1/layer.tar")
    entries = [{"Config": "config.json", "RepoTags": None, "Layers": ["2/layer.tar"]}]
    archive = tar.add("manifest.json", json.dumps(entries).encode()).bytes()
    async with opened_store(tmp_path) as store:
        assert await _loaded(store, archive, tmp_path) == [(_id(config), None)]


async def test_an_oci_layout_with_a_nested_index_for_several_platforms(tmp_path: Path) -> None:
    layout = _Layout()
    config = config_of([_LAYER])
    ours = {**layout.image(config, gzip.compress(_LAYER)), "platform": {"os": "linux", "architecture": "amd64"}}
    other = {**layout.image(config_of([])), "platform": {"os": "linux", "architecture": "arm64"}}
    left_out = {"digest": "sha256:" + "e" * 64, "size": 5}
    inner = layout.put(json.dumps({"manifests": [other, left_out, ours]}).encode())
    plain = layout.image(config_of([]))
    named = {**inner, "annotations": {"org.opencontainers.image.ref.name": "app:v1", "other": 5}}
    async with opened_store(tmp_path) as store:
        found = await _loaded(store, layout.finish(named, plain), tmp_path)
        assert found == [(_id(config), "app:v1"), (_id(config_of([])), None)]


@pytest.mark.parametrize(
    ("archive", "text"),
    [
        (b"", "invalid archive"),
        (b"this is not a tar" * 1000, "invalid archive: invalid tar header"),
        (_docker([])[:700], "invalid archive"),
        (Tar().add("something", b"x").bytes(), "neither manifest.json nor index.json"),
        (Tar().add("manifest.json", b"[" + b"{}," * 300_000 + b"{}]").bytes(), "more than 200000 values"),
        (_docker({"Config": "x"}), "malformed manifest"),
        (_docker([{"Config": 5, "Layers": []}]), "malformed manifest"),
        (_docker([{"Config": "x", "Layers": [5]}]), "malformed manifest"),
        (_docker([{"Config": "x", "Layers": []}]), "invalid archive: x is missing"),
        (_docker([{"Config": "x", "Layers": []}], x=b"{"), "invalid image config"),
        (_docker([{"Config": "x", "Layers": []}], x=config_of([_LAYER])), "0 layers, but 1 diff ids"),
        (_docker([{"Config": "x", "Layers": ["y"]}], x=config_of([_LAYER])), "invalid archive: y is missing"),
        (_docker([{"Config": "x", "Layers": ["y"]}], x=config_of([_LAYER]), y=b"zzz"), "invalid|EOF"),
        (_docker([{"Config": "x", "Layers": ["y"]}], x=config_of([_LAYER]), y=Tar().bytes()), "its config says"),
        (_docker([{"Config": "x", "Layers": [], "RepoTags": ["A B"]}], x=config_of([])), "invalid reference"),
        (Tar().add("index.json", b"[").bytes(), "malformed manifest"),
        (Tar().add("index.json", b'{"manifests": 5}').bytes(), "malformed manifest"),
        (Tar().add("index.json", b'{"manifests": [{"digest": "md5:x"}]}').bytes(), "unsupported digest md5:x"),
        (Tar().add("index.json", b'{"manifests": [{"digest": "sha256:../x"}]}').bytes(), "unsupported digest"),
        (
            Tar().add("index.json", json.dumps({"config": {"digest": "x"}, "layers": []}).encode()).bytes(),
            "index.json is not an index",
        ),
        (Tar().add("index.json", b'{"a":' * 100_000).bytes(), "malformed manifest"),
        (Tar().add("manifest.json", b" " * (9 << 20)).bytes(), "manifest.json is too large"),
    ],
)  # fmt: skip
async def test_broken_archives(tmp_path: Path, archive: bytes, text: str) -> None:
    async with opened_store(tmp_path) as store:
        with pytest.raises(VchError, match=text):
            await _loaded(store, archive, tmp_path)
        assert list((tmp_path / "layers").iterdir()) == []


async def test_an_index_that_contains_itself_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_MANIFESTS", 100)
    name = "a" * 64
    twice = json.dumps({"manifests": [{"digest": f"sha256:{name}"}] * 2}).encode()
    archive = Tar().add(f"blobs/sha256/{name}", twice).add("index.json", twice).bytes()
    async with opened_store(tmp_path) as store:
        with pytest.raises(ProtocolError, match="more than 100 manifests"):
            await _loaded(store, archive, tmp_path)


@pytest.mark.parametrize("counts", [(101, 0), (1, 101)])
async def test_images_and_names_of_an_archive_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int]
) -> None:
    monkeypatch.setattr(module, "_MAX_MANIFESTS", 100)
    images, names = counts
    entry = {"Config": "x", "RepoTags": [f"a:{number}" for number in range(names)], "Layers": []}
    archive = Tar().add("manifest.json", json.dumps([entry] * images).encode()).bytes()
    async with opened_store(tmp_path) as store:
        with pytest.raises(ProtocolError, match="more than 100 images or names"):
            await _loaded(store, archive, tmp_path)


async def test_devices_and_names_outside_are_no_members(tmp_path: Path) -> None:
    tar = Tar().add("manifest.json", kind=tarfile.CHRTYPE).add("../manifest.json", b"[]")
    async with opened_store(tmp_path) as store:
        with pytest.raises(ProtocolError, match="neither"):
            await _loaded(store, tar.bytes(), tmp_path)
    assert os.listdir(tmp_path / "layers") == []


async def test_a_name_that_another_image_had(tmp_path: Path) -> None:
    other = Tar().add("other", b"x").bytes()
    configs = [config_of([_LAYER]), config_of([other])]

    def archive(config: bytes, layer: bytes, name: str) -> bytes:
        return _docker(
            [{"Config": "c", "RepoTags": [name], "Layers": ["l"]}],
            c=config,
            l=layer,
        )

    async with opened_store(tmp_path) as store:
        replaced = []
        for config, layer in ((configs[0], _LAYER), (configs[0], _LAYER), (configs[1], other)):
            (tmp_path / "archive").write_bytes(archive(config, layer, "app:1"))
            replaced += [image.replaced async for image in load(store, tmp_path / "archive")]
        assert replaced == ["", "", _id(configs[0])]
        (tmp_path / "archive").write_bytes(archive(configs[1], other, "sha256:1"))
        with pytest.raises(InvalidParameter, match="refusing to create an ambiguous tag"):
            [_ async for _ in load(store, tmp_path / "archive")]
