"""What buildkitd pushes to the door, and what a hostile client does."""

import gzip
import json
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.engine.builds.door import bodies, uploads
from appliance.errors import ProtocolError
from appliance.image.conversion import Converters
from appliance.image.known_blobs import Blob
from tests.appliance.engine.builds.door.wire import DoorClient, image_in, manifest, opened_door, sha
from tests.appliance.image.test_pull import config_of
from tests.archives import Tar
from tests.steps import cpu_of_steps

_TARS = [Tar().add(name, name.encode() * 10_000).bytes() for name in ("base", "top")]
_WRONG = "sha256:" + "0" * 64
_CONVERT = Converters.convert


@pytest.fixture
def _converters(monkeypatch: pytest.MonkeyPatch, _conversion_without_a_process: None) -> None:
    """Layers are converted by processes, as in vchd."""
    monkeypatch.setattr(Converters, "convert", _CONVERT)


async def _start(client: DoorClient, upload: str) -> str:
    return (await client.ask("POST", f"/v2/build/{upload}/blobs/uploads/")).headers["location"]


async def test_a_build_pushes_an_image(tmp_path: Path) -> None:
    config = config_of(_TARS)
    async with opened_door(tmp_path) as (store, door, client):
        async with door.open() as upload:
            with pytest.raises(ProtocolError, match="the build has pushed no image"):
                await upload.finish()
            pushed = await client.push_image(upload.id, config, _TARS)
            content = manifest(config, _TARS)
            assert (pushed.status, pushed.headers["docker-content-digest"]) == (201, sha(content))
            assert (await client.ask("GET", f"/v2/build/{upload.id}/manifests/latest")).body == content
            # A build that the client repeats pushes the same again.
            assert (await client.put_manifest(upload.id, content)).status == 201
            assert store.all() == []
            done = await upload.finish()
            assert (done.image_id, done.size) == (sha(config), 70_000)
        record = store.get(sha(config))
        assert (record.references, record.config) == ([], config)
        assert [b"".join(store.tar_of(sha(tar))) for tar in _TARS] == _TARS


async def test_layers_that_are_here_are_not_sent(tmp_path: Path) -> None:
    gzipped = gzip.compress(_TARS[0])
    async with opened_door(tmp_path) as (store, door, client):
        async with door.open() as upload:
            # The base is a blob of a registry that the store has not seen.
            assert (await client.push_image(upload.id, config_of(_TARS), [gzipped, _TARS[1]])).status == 201
            await upload.finish()
        async with door.open() as upload:
            for blob in (gzipped, *_TARS):
                known = await client.ask("HEAD", f"/v2/build/{upload.id}/blobs/{sha(blob)}")
                assert (known.status, known.headers["content-length"]) == (200, str(len(blob)))
            mounted = await client.ask("POST", f"/v2/build/{upload.id}/blobs/uploads/?mount={sha(gzipped)}&from=x")
            assert mounted.status == 201
            missing = await client.ask("POST", f"/v2/build/{upload.id}/blobs/uploads/?mount={_WRONG}&from=x")
            assert missing.status == 202
            # What a HEAD has found stays, also when its image goes.
            await store.remove(sha(config_of(_TARS)), lambda image_id, *, running: None, force=False)
            assert (await client.push_image(upload.id, config_of([_TARS[0]]), [gzipped])).status == 201
            await upload.finish()
        assert [store.has_layer(sha(tar)) for tar in _TARS] == [True, False]
        kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
        assert store.blobs_of(sha(_TARS[0])) == [Blob(sha(gzipped), len(gzipped), kind, "")]


async def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as (store, door, client):
        async with door.open() as upload:
            assert (await client.push_image(upload.id, config_of(_TARS), _TARS)).status == 201
        assert (store.all(), store.layers()) == ([], [])
        refused = await client.ask("GET", f"/v2/build/{upload.id}/manifests/latest")
        assert (refused.status, refused.message) == (403, "no build is under way")
        async with door.open():
            gone = await client.ask("POST", f"/v2/build/{upload.id}/blobs/uploads/")
            assert (gone.status, gone.message) == (404, f"no build with the upload {upload.id}")


async def test_a_blob_that_comes_before_its_digest(tmp_path: Path) -> None:
    """skopeo and docker push so: POST, PATCH, PUT."""
    async with opened_door(tmp_path) as (store, door, client):
        async with door.open() as upload:
            for blob in (_TARS[0], config_of(_TARS[:1])):
                session = await _start(client, upload.id)
                assert (await client.ask("PATCH", session, blob)).headers["range"] == f"0-{len(blob) - 1}"
                again = await client.ask("PATCH", session, blob)
                assert (again.status, again.message) == (416, "the door takes a blob in one piece")
                assert (await client.ask("PUT", f"{session}?digest={sha(blob)}")).status == 201
            assert (await client.put_manifest(upload.id, manifest(config_of(_TARS[:1]), _TARS[:1]))).status == 201
            session = await _start(client, upload.id)
            await client.ask("PATCH", session, _TARS[1])
            wrong = await client.ask("PUT", f"{session}?digest={_WRONG}")
            assert wrong.message.startswith(f"provided digest did not match uploaded content: {_WRONG} was given")
            await upload.finish()
        assert store.layers() == [store.layer_path(sha(_TARS[0]))]


async def test_blobs_with_wrong_digests_are_removed_at_once(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as (store, door, client):
        await image_in(store, [_TARS[1]], "other")
        async with door.open() as upload:
            for blob in (*_TARS, config_of(_TARS)):
                wrong = await client.ask("PUT", f"{await _start(client, upload.id)}?digest={_WRONG}", blob)
                assert (wrong.status, wrong.message) == (
                    400,
                    f"provided digest did not match uploaded content: {_WRONG} was given, {sha(blob)} is that of the bytes",
                )
            assert store.layers() == [store.layer_path(sha(_TARS[1]))]
            for digest in ("", "md5:0", "sha256:../../x", _WRONG.upper()):
                refused = await client.ask("PUT", f"{await _start(client, upload.id)}?digest={digest}", b"x")
                assert refused.message == "digest: sha256 and 64 hexadecimal digits are expected"


async def test_bodies_that_are_no_layers(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as (store, door, client):
        async with door.open() as upload:
            for body, text in (
                (b"x" * 2000, "archive/tar: invalid tar header"),
                (_TARS[0][:3000], "unexpected EOF"),
                (gzip.compress(_TARS[0])[:-9], "unexpected EOF"),
                (Tar().add("../out", b"x").bytes(), "outside of the layer"),
                (b"{" + b"x" * (uploads.MAX_CONFIG + 1), "the config of the image is larger than 4194304 bytes"),
            ):
                refused = await client.ask("PUT", f"{await _start(client, upload.id)}?digest={sha(body)}", body)
                assert refused.status == 400
                assert text in refused.message
            # A name in a tar may begin as JSON does.
            brace = Tar().add("{a}/b", b"x").bytes()
            assert (await client.push_blob(upload.id, brace)).status == 201
            assert store.has_layer(sha(brace))


@pytest.mark.usefixtures("_converters")
async def test_a_bomb_is_stopped_by_the_quota(tmp_path: Path) -> None:
    bomb = gzip.compress(Tar().add("a", bytes(32 << 20)).bytes(), 1)

    async def room() -> int:
        return 1 << 20

    async with opened_door(tmp_path, room=room) as (_store, door, client):
        async with door.open() as upload:
            # BuildKit must not try again: the answer is not one of 5xx.
            refused = await client.ask("PUT", f"{await _start(client, upload.id)}?digest={sha(bomb)}", bomb)
            assert (refused.status, refused.message) == (403, "storage quota exceeded")
            assert list((tmp_path / "layers").iterdir()) == []


def _listing(config: bytes, blobs: list[bytes], **more: object) -> bytes:
    return json.dumps({**json.loads(manifest(config, blobs)), **more}).encode()


async def test_manifests_that_are_refused(tmp_path: Path) -> None:
    config = config_of(_TARS)
    async with opened_door(tmp_path) as (_store, door, client):
        async with door.open() as upload:
            for blob in (*_TARS, config):
                await client.push_blob(upload.id, blob)
            swapped = _listing(config, _TARS[::-1])
            for content, text in (
                (b"{}", "malformed manifest of a build"),
                (b"[" * 10_000, "malformed manifest of a build"),
                (_listing(config, _TARS[:1]), "malformed manifest of a build: 1 layers, but 2 diff ids"),
                (_listing(config, [_TARS[0], b"none"]), f"layer {sha(b'none')} was not pushed"),
                (swapped, f"layer {sha(_TARS[1])} has the diff id {sha(_TARS[1])}, its config says {sha(_TARS[0])}"),
                (_listing(b"none", []), f"config {sha(b'none')} was not pushed"),
                (b" " * (uploads.MAX_MANIFEST + 1), "the manifest is larger than 1048576 bytes"),
            ):
                refused = await client.put_manifest(upload.id, content)
                assert refused.status == 400
                assert text in refused.message
            content = b'{"schemaVersion": 2, "manifests": [{"digest": "sha256:x", "size": 1}]}'
            index = await client.put_manifest(upload.id, content, "application/vnd.oci.image.index.v1+json")
            assert (
                index.message
                == "a build for several platforms, or with attestations, is not supported: it pushes an index"
            )
            wrong = await client.ask("PUT", f"/v2/build/{upload.id}/manifests/{_WRONG}", swapped)
            assert wrong.message.startswith("provided digest did not match")
            assert (await client.put_manifest(upload.id, manifest(config, _TARS))).status == 201
            second = await client.put_manifest(upload.id, manifest(config, _TARS) + b" ")
            assert second.message == "the build has pushed an image already"


@pytest.mark.usefixtures("_converters")
async def test_an_upload_that_ends_cancels_its_requests(tmp_path: Path) -> None:
    """Half a body: its converter ends with the upload, and nothing is left."""
    async with opened_door(tmp_path) as (_store, door, client):
        async with door.open() as other:
            async with door.open() as upload:
                session = await _start(client, upload.id)
                await client.send("PUT", f"{session}?digest={sha(_TARS[0])}", len(_TARS[0]))
                await client.wire.send(_TARS[0][:5000])
                with trio.fail_after(20):
                    while not list((tmp_path / "layers").iterdir()):
                        await trio.lowlevel.checkpoint()
            assert list((tmp_path / "layers").iterdir()) == []
            await client.wire.send(_TARS[0][5000:])
            assert (await client.answer()).message == f"upload {upload.id} has ended"
            assert (await client.push_blob(other.id, _TARS[0])).status == 201


@pytest.mark.usefixtures("_converters")
async def test_a_client_that_leaves_in_mid_body(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as (_store, door, client):
        async with door.open() as upload:
            session = await _start(client, upload.id)
            await client.send("PUT", f"{session}?digest={sha(_TARS[0])}", len(_TARS[0]))
            await client.wire.send(_TARS[0][:5000])
            client.wire.end()
            await client.wire.expect_end()
            assert list((tmp_path / "layers").iterdir()) == []
            assert not upload._scopes


@pytest.mark.usefixtures("_converters")
async def test_a_body_that_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "STALL_SECONDS", 0.05)
    monkeypatch.setattr(bodies, "DOCUMENT_SECONDS", 0.02)
    async with opened_door(tmp_path) as (_store, door, client):
        async with door.open() as upload:
            for begin, text in (
                (_TARS[0][:5000], "the body has stopped for 0 s"),
                (b"", "the body has stopped for 0 s"),
                (b"{" * 1000, "the config of the image was not complete after 0 s"),
            ):
                session = await _start(client, upload.id)
                await client.send("PUT", f"{session}?digest={sha(_TARS[0])}", 30_000)
                await client.wire.send(begin)
                refused = await client.answer()
                assert (refused.status, refused.message) == (400, text)
                await client.wire.send(b"x" * (30_000 - len(begin)))
        assert list((tmp_path / "layers").iterdir()) == []


async def test_a_build_has_a_bounded_number_of_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_LAYERS", 2)
    third = Tar().add("third", b"x").bytes()
    async with opened_door(tmp_path) as (store, door, client):
        await image_in(store, [third], "third")
        async with door.open() as upload:
            for tar in _TARS:
                assert (await client.push_blob(upload.id, tar)).status == 201
            # Not a HEAD's business: it has no text.
            assert (await client.ask("HEAD", f"/v2/build/{upload.id}/blobs/{sha(third)}")).status == 400
            for method in ("PUT", "PATCH"):
                refused = await client.ask(method, f"{await _start(client, upload.id)}?digest={sha(third)}", third)
                assert refused.message == "the build pushes more than 2 layers"


async def test_uploads_that_never_end_cost_nothing(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as (_store, door, client):
        async with door.open() as upload:
            with cpu_of_steps() as steps:
                for _ in range(50):
                    await _start(client, upload.id)
            assert steps.longest < 0.05, steps
            assert not upload._patched
