"""What buildkitd pulls from the door."""

import json
from pathlib import Path

import pytest

from appliance.engine.builds.door.blobs import LocalImages
from appliance.errors import NotFound
from tests.appliance.engine.builds.door.wire import MANIFEST, image_in, opened_door, sha
from tests.archives import Tar

_TARS = [Tar().add(name, name.encode() * 100_000).bytes() for name in ("base", "top")]
_MISSING = "sha256:" + "0" * 64


async def test_an_image_is_pulled_by_its_tag_and_by_its_digest(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as (store, door, client):
        record = await image_in(store, _TARS, "app", "localhost:5000/team/app:v1")
        async with door.open():
            assert (await client.ask("GET", "/v2/")).status == 200
            path = "/v2/docker.io/library/app"
            found = await client.ask("GET", f"{path}/manifests/latest")
            digest = sha(found.body)
            assert (found.status, found.headers["content-type"]) == (200, MANIFEST)
            assert found.headers["docker-content-digest"] == digest == door.manifest_digest(record)
            head = await client.ask("HEAD", f"{path}/manifests/{digest}")
            assert (head.status, head.headers["content-length"]) == (200, str(len(found.body)))
            assert (await client.ask("GET", "/v2/localhost_5000/team/app/manifests/v1")).body == found.body
            manifest = json.loads(found.body)
            config = await client.ask("GET", f"{path}/blobs/{manifest['config']['digest']}")
            assert config.body == record.config
            for layer, tar in zip(manifest["layers"], _TARS, strict=True):
                assert (layer["digest"], layer["size"]) == (sha(tar), len(tar))
                assert (await client.ask("GET", f"{path}/blobs/{layer['digest']}")).body == tar
            for part in (f"manifests/{_MISSING}", "manifests/v2", f"blobs/{_MISSING}"):
                assert (await client.ask("GET", f"{path}/{part}")).status == 404
        # A new vchd has made no manifest yet.
        assert LocalImages(store)._find("docker.io/library/app", digest)[1] == found.body


async def test_a_part_of_a_layer(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as (store, door, client):
        await image_in(store, _TARS, "app")
        async with door.open():
            for wanted, first, end in (
                ("bytes=0-", 0, None),
                ("bytes=700-", 700, None),
                ("bytes=700-799", 700, 800),
                ("bytes=400000-99999999", 400_000, None),
            ):
                found = await client.ask("GET", f"/v2/docker.io/library/app/blobs/{sha(_TARS[0])}", range=wanted)
                part = _TARS[0][first:end]
                assert (found.status, found.body) == (206, part)
                assert found.headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/{len(_TARS[0])}"


async def test_ranges_that_no_layer_has(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as (store, door, client):
        await image_in(store, _TARS, "app")
        blob = f"/v2/docker.io/library/app/blobs/{sha(_TARS[0])}"
        async with door.open():
            behind = await client.ask("GET", blob, range=f"bytes={len(_TARS[0])}-")
            assert (behind.status, behind.message) == (
                416,
                f"the range bytes={len(_TARS[0])}- is behind the end of {len(_TARS[0])} bytes",
            )
            # RFC 9110 14.2: a server may ignore what it does not serve.
            for ignored in ("bytes=-5", "bytes=9-3", "lines=1-2", "bytes=1-2,4-5", "bytes=" + "9" * 60 + "-"):
                assert (await client.ask("GET", blob, range=ignored)).status == 200


async def test_a_layer_stays_while_it_is_sent(tmp_path: Path) -> None:
    tar = Tar().add("file", bytes(range(256)) * 40_000).bytes()
    async with opened_door(tmp_path) as (store, door, client):
        await image_in(store, [tar], "app")
        async with door.open():
            await client.send("GET", f"/v2/docker.io/library/app/blobs/{sha(tar)}", 0)
            begun = await client.wire.receive(1)
            await store.remove("app", lambda image_id, *, running: None, force=False)
            assert store.has_layer(sha(tar))
            assert (await client.answer(begun)).body == tar
            # The server may still be on its way out of the answer.
            assert (await client.ask("GET", "/v2/")).status == 200
        assert not store.has_layer(sha(tar))


async def test_a_damaged_layer_breaks_the_connection(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as (store, door, client):
        record = await image_in(store, [_TARS[0]], "app")
        (disk,) = store.layer_paths(record.id)
        disk.chmod(0o600)
        disk.write_bytes(b"")
        async with door.open():
            await client.send("GET", f"/v2/docker.io/library/app/blobs/{sha(_TARS[0])}", 0)
            received = await client.wire.receive(1 << 20)
            assert received.startswith(b"HTTP/1.1 200 OK")
            assert len(received) < len(_TARS[0])


async def test_a_layer_of_a_version_without_recipes(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as (store, _door, _client):
        record = await image_in(store, [_TARS[0]], "app")
    (tmp_path / "layers" / f"{sha(_TARS[0])[7:]}.erofs.recipe").unlink()
    async with opened_door(tmp_path) as (store, door, client):
        store._sizes._tars.clear()
        with pytest.raises(NotFound, match=f"image {record.id[7:19]} cannot be a base: .* pull or load it again"):
            door.manifest_digest(record)
        async with door.open():
            for part in ("manifests/latest", f"blobs/{sha(_TARS[0])}"):
                assert (await client.ask("GET", f"/v2/docker.io/library/app/{part}")).status == 404
