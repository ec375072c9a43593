"""`docker save`: an archive that is both Docker's (manifest.json) and an OCI image layout (index.json), as moby writes it since 25."""

import io
import json
import tarfile
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from appliance.image.pull import digest_of
from appliance.image.reference import parse_reference
from appliance.image.store import ImageRecord, ImageStore
from appliance.image.tars import batched, in_thread, tar_size

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_INDEX = "application/vnd.oci.image.index.v1+json"
_BLOBS = "blobs/sha256"
_END = bytes(1024)


async def save(store: ImageStore, wanted: list[tuple[ImageRecord, list[str]]]) -> AsyncGenerator[bytes, None]:
    """The archive of images, each with the full names that it is to have in it."""
    diff_ids = [diff_id for record, _ in wanted for diff_id in store.config(record.id).diff_ids]
    async with store.pinned(diff_ids):
        async for piece in in_thread(batched(_archive(store, wanted))):
            yield piece


def _archive(store: ImageStore, wanted: list[tuple[ImageRecord, list[str]]]) -> Iterator[bytes]:
    yield _header("blobs/", 0, tarfile.DIRTYPE) + _header(f"{_BLOBS}/", 0, tarfile.DIRTYPE)
    sizes: dict[str, int] = {}
    written: set[str] = set()
    index: list[dict[str, Any]] = []
    listed: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    for record, names in wanted:
        diff_ids = store.config(record.id).diff_ids
        for diff_id in diff_ids:
            if diff_id not in sizes:
                sizes[diff_id] = tar_size(store, diff_id)
                yield _header(_blob(diff_id), sizes[diff_id])
                yield from store.tar_of(diff_id)
                yield bytes(-sizes[diff_id] % 512)
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {"mediaType": _CONFIG, "digest": record.id, "size": len(record.config)},
                "layers": [{"mediaType": _LAYER, "digest": one, "size": sizes[one]} for one in diff_ids],
            }
        ).encode()
        for digest, content in ((record.id, record.config), (digest_of(manifest), manifest)):
            if digest not in written:
                written.add(digest)
                yield _member(_blob(digest), content)
        descriptor = {"mediaType": _MANIFEST, "digest": digest_of(manifest), "size": len(manifest)}
        familiar = []
        for name in names:
            reference = parse_reference(name)
            familiar.append(str(reference))
            annotations = {
                "io.containerd.image.name": f"{reference.name}:{reference.tag}",
                "org.opencontainers.image.ref.name": reference.tag,
            }
            index.append({**descriptor, "annotations": annotations})
            if diff_ids:
                top = diff_ids[-1].removeprefix("sha256:")
                repositories.setdefault(reference.familiar_name, {})[reference.tag] = top
        if not names:
            index.append(descriptor)
        listed.append(
            {"Config": _blob(record.id), "RepoTags": familiar or None, "Layers": [_blob(one) for one in diff_ids]}
        )
    yield _member("index.json", json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": index}).encode())
    yield _member("manifest.json", json.dumps(listed).encode())
    yield _member("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    if repositories:
        yield _member("repositories", json.dumps(repositories).encode())
    yield _END


def _blob(digest: str) -> str:
    return f"{_BLOBS}/{digest.removeprefix('sha256:')}"


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, size
    entry.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return entry.tobuf(tarfile.PAX_FORMAT)


def _member(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    out.write(_header(name, len(content)))
    out.write(content)
    out.write(bytes(-len(content) % 512))
    return out.getvalue()
