"""Manifests and indexes, which strangers write."""

import json
from typing import Any

import msgspec
import pytest

from appliance.errors import ProtocolError
from appliance.image.manifest import (
    ArchivedImage,
    Descriptor,
    ImageIndex,
    ImageManifest,
    parse_manifest_untrusted,
)

_DIGEST = "sha256:" + "a" * 64
_MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "config": {"mediaType": "c", "size": 5, "digest": _DIGEST, "unknown": [1]},
    "layers": [{"digest": _DIGEST}],
}


def _parse(document: object) -> ImageManifest | ImageIndex:
    return parse_manifest_untrusted(json.dumps(document).encode(), "complaint")


def test_a_manifest_and_an_index_are_told_apart() -> None:
    manifest = _parse({**_MANIFEST, "annotations": {"a": "b"}, "subject": None})
    assert isinstance(manifest, ImageManifest)
    assert (manifest.config.size, manifest.config.digest) == (5, _DIGEST)
    assert manifest.layers == [Descriptor(digest=_DIGEST)]
    index = _parse({"manifests": [{"digest": _DIGEST, "platform": {"os": "linux", "architecture": "arm64"}}]})
    assert isinstance(index, ImageIndex)
    (entry,) = index.manifests
    assert entry.platform
    assert (entry.platform.os, entry.platform.architecture) == ("linux", "arm64")


def test_null_is_a_value_that_is_not_there() -> None:
    entry = {"digest": _DIGEST, "mediaType": None, "platform": None, "annotations": None}
    index = _parse({"mediaType": None, "manifests": [entry]})
    assert isinstance(index, ImageIndex)
    assert not index.manifests[0].platform


@pytest.mark.parametrize(
    "document",
    [
        [],
        None,
        5,
        {},
        {"config": 5, "layers": []},
        {"config": _MANIFEST["config"]},
        {"config": _MANIFEST["config"], "layers": [5]},
        {"manifests": None},
        {"manifests": {}},
        {"manifests": [{}]},
        {"manifests": [{"digest": 5}]},
        {"manifests": [{"digest": _DIGEST, "platform": "linux"}]},
        *({**_MANIFEST, "layers": [{"digest": _DIGEST, "size": size}]} for size in (-1, 1.5, "5", 2**63, None)),
        {**_MANIFEST, "schemaVersion": "2"},
    ],
)
def test_wrong_kinds(document: object) -> None:
    with pytest.raises(ProtocolError, match=r"^complaint: "):
        _parse(document)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"config": "\xff"}', b'{"a":' * 100_000, b"[" * 100_000])
def test_invalid_json(content: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^complaint: "):
        parse_manifest_untrusted(content, "complaint")


def test_schema_1_is_named() -> None:
    with pytest.raises(ProtocolError, match="manifests of schema 1 are not supported"):
        _parse({"schemaVersion": 1, "fsLayers": []})


_INDEX: dict[str, Any] = {"manifests": [{"digest": _DIGEST}]}
_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


@pytest.mark.parametrize(
    ("document", "media_type", "text"),
    [
        ({**_MANIFEST, **_INDEX}, "", "both a manifest and an index"),
        ({**_INDEX, "layers": _MANIFEST["layers"]}, _OCI_INDEX, "both a manifest and an index"),
        ({**_INDEX, "config": _MANIFEST["config"]}, "", "both a manifest and an index"),
        (_INDEX, _OCI_MANIFEST, "expected manifest but found index"),
        ({**_INDEX, "mediaType": _OCI_MANIFEST}, _OCI_INDEX, "expected manifest but found index"),
        (_MANIFEST, _LIST, "expected index but found manifest"),
        ({**_MANIFEST, "mediaType": _OCI_INDEX}, "", "expected index but found manifest"),
    ],
)
def test_an_ambiguous_document_is_refused(document: object, media_type: str, text: str) -> None:
    """CVE-2021-41190: two clients must not see different images under one digest."""
    with pytest.raises(ProtocolError, match=text):
        parse_manifest_untrusted(json.dumps(document).encode(), "complaint", media_type)


@pytest.mark.parametrize(
    "document", [{**_MANIFEST, "layers": _MANIFEST["layers"] * 10_001}, {"manifests": _INDEX["manifests"] * 10_001}]
)
def test_descriptors_are_bounded(document: object) -> None:
    with pytest.raises(ProtocolError, match="more than 10000 descriptors"):
        _parse(document)


def test_empty_members_of_the_other_kind_do_no_harm() -> None:
    manifest = {**_MANIFEST, "manifests": []}
    assert isinstance(parse_manifest_untrusted(json.dumps(manifest).encode(), "", _OCI_MANIFEST), ImageManifest)
    index = {**_INDEX, "layers": [], "config": {}}
    assert isinstance(parse_manifest_untrusted(json.dumps(index).encode(), "", "text/plain"), ImageIndex)


def test_what_is_written_has_no_empty_members() -> None:
    manifest = ImageManifest(config=Descriptor(digest=_DIGEST, size=1), layers=[])
    assert json.loads(msgspec.json.encode(manifest)) == {
        "schemaVersion": 2,
        "mediaType": "",
        "config": {"mediaType": "", "size": 1, "digest": _DIGEST},
        "layers": [],
    }
    archived = ArchivedImage(config="c", layers=["l"])
    assert json.loads(msgspec.json.encode(archived)) == {"Config": "c", "RepoTags": None, "Layers": ["l"]}


def test_values_are_bounded() -> None:
    with pytest.raises(ProtocolError, match="x: more than 200000 values"):
        parse_manifest_untrusted(b'{"manifests":[' + b'{"digest":""},' * 250_000 + b"{}]}", "x")


def test_go_writes_null_for_no_layers() -> None:
    content = json.dumps({"schemaVersion": 2, "config": {"digest": _DIGEST, "size": 1}, "layers": None}).encode()
    manifest = parse_manifest_untrusted(content, "bad")
    assert isinstance(manifest, ImageManifest)
    assert manifest.layers == []
