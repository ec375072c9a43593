"""`docker save`: an archive that Docker, OCI tools and `load` read."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from appliance.image.save import save
from appliance.image.store import ImageRecord, ImageStore
from tests.appliance.image.test_pull import config_of, opened_store
from tests.archives import Pieces, Tar


async def archive_of(store: ImageStore, wanted: list[tuple[ImageRecord, list[str]]]) -> bytes:
    return b"".join([piece async for piece in save(store, wanted)])


def _members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
        assert len(names) == len(set(names))
        found = {}
        for member in tar.getmembers():
            file = tar.extractfile(member)
            found[member.name] = file.read() if file is not None else b""
    return found


async def test_the_archive_is_dockers_and_an_oci_layout(tmp_path: Path) -> None:
    base, top = (Tar().add(name, name.encode() * 5000).bytes() for name in ("base", "top"))
    async with opened_store(tmp_path) as store:
        for tar in (base, top):
            await store.add_new_layer(Pieces(tar))
        one = await store.add_image(config_of([base]))
        two = await store.add_image(config_of([base, top]))
        wanted = [(one, ["docker.io/library/app:v1", "registry.example/team/app:v1"]), (two, [])]
        members = _members(await archive_of(store, wanted))

    def blob(digest: str) -> bytes:
        content = members[f"blobs/sha256/{digest.removeprefix('sha256:')}"]
        assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
        return content

    assert json.loads(members["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    listed: list[dict[str, Any]] = json.loads(members["manifest.json"])
    assert [entry["RepoTags"] for entry in listed] == [["app:v1", "registry.example/team/app:v1"], None]
    assert [members[name] for name in listed[1]["Layers"]] == [base, top]
    assert members[listed[0]["Config"]] == one.config
    index = json.loads(members["index.json"])
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert [entry.get("annotations") for entry in index["manifests"]] == [
        {"io.containerd.image.name": "docker.io/library/app:v1", "org.opencontainers.image.ref.name": "v1"},
        {"io.containerd.image.name": "registry.example/team/app:v1", "org.opencontainers.image.ref.name": "v1"},
        None,
    ]
    for entry, record, layers in zip(index["manifests"], (one, one, two), ([base], [base], [base, top]), strict=True):
        manifest = json.loads(blob(entry["digest"]))
        assert entry["size"] == len(blob(entry["digest"]))
        assert blob(manifest["config"]["digest"]) == record.config
        assert [blob(layer["digest"]) for layer in manifest["layers"]] == layers
        assert [layer["size"] for layer in manifest["layers"]] == [len(layer) for layer in layers]
    top_id = hashlib.sha256(base).hexdigest()
    assert json.loads(members["repositories"]) == {
        "app": {"v1": top_id},
        "registry.example/team/app": {"v1": top_id},
    }


async def test_an_image_without_layers(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        record = await store.add_image(config_of([]))
        members = _members(await archive_of(store, [(record, ["docker.io/library/empty:latest"])]))
    assert json.loads(members["manifest.json"])[0]["Layers"] == []
    assert "repositories" not in members
