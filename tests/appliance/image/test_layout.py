"""The manifest of an image at the door of builds: its bytes, and what a build may push."""

import json
from pathlib import Path

import pytest

from appliance.errors import ProtocolError
from appliance.image.layout import check_pushed_untrusted, manifest_of, parse_pushed_untrusted
from tests.appliance.image.test_pull import config_of, opened_store
from tests.archives import Pieces, Tar

_A, _B = ("sha256:" + letter * 64 for letter in "ab")


async def test_the_manifest_of_an_image_never_changes(tmp_path: Path) -> None:
    """BuildKit's cache knows a base by the digest of these bytes: other bytes would build everything again."""
    tar = Tar().add("file", b"content").bytes()
    async with opened_store(tmp_path) as store:
        await store.add_new_layer(Pieces(tar))
        record = await store.add_image(config_of([tar]))
        assert manifest_of(store, record) == (
            b'{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
            b'"config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":173,'
            b'"digest":"sha256:26e2fb86f9601c16608d455bbddfe7ffb3f914fa988f2a7e77087a6b57a1f059"},'
            b'"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar","size":10240,'
            b'"digest":"sha256:fb9acee555c89bb7fc214ec225ae7ec95a2ce1115a2098ed4ea30ee8cfa05d0c"}]}'
        )


def _manifest(*layers: str) -> bytes:
    listed = [{"digest": digest, "size": 1} for digest in layers]
    return json.dumps({"schemaVersion": 2, "config": {"digest": "sha256:c", "size": 1}, "layers": listed}).encode()


def _config(*diff_ids: str) -> bytes:
    return json.dumps({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()


def _checked(manifest: bytes, config: bytes, layers: dict[str, str]) -> list[str]:
    return check_pushed_untrusted(parse_pushed_untrusted(manifest, ""), config, layers)


def test_the_layers_of_a_pushed_image_are_those_of_its_config() -> None:
    # A base with a compressed layer, and the same layer twice.
    assert _checked(_manifest("sha256:x", _B, _B), _config(_A, _B, _B), {"sha256:x": _A, _B: _B}) == [_A, _B, _B]
    assert _checked(_manifest(), _config(), {}) == []


@pytest.mark.parametrize(
    ("manifest", "config", "text"),
    [
        (_manifest(_A), _config(), "1 layers, but 0 diff ids"),
        (_manifest(_A, _B), _config(_B, _A), f"layer {_A} has the diff id {_A}, its config says {_B}"),
        (_manifest("sha256:" + "y" * 1000), _config(_A), f"layer sha256:{'y' * 73} was not pushed"),
        (_manifest(), b"{" * 1000, "invalid image config"),
        (_manifest(), _config(*([_A] * 251)), "max depth exceeded: 251 layers"),
        (_manifest(), b'{"rootfs": {"diff_ids": ["x"]}}', "diff_ids are not digests"),
        (b"[]", _config(), "malformed manifest of a build"),
        (b'{"schemaVersion": 2, "manifests": []}', _config(), "it pushes an index"),
        (b'{"schemaVersion": 1}', _config(), "schema 1"),
    ],
)
def test_images_that_are_refused(manifest: bytes, config: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        _checked(manifest, config, {_A: _A, _B: _B})
