"""`docker save`: an archive that is both Docker's (manifest.json) and an OCI image layout (index.json), as moby writes it since 25."""

import io
import tarfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import msgspec

from appliance.image.manifest import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Annotations,
    ArchivedImage,
    Descriptor,
    ImageIndex,
    ImageManifest,
)
from appliance.image.pull import digest_of
from appliance.image.reference import parse_reference
from appliance.image.store import ImageRecord, ImageStore
from appliance.image.tars import batched, in_thread

_BLOBS = "blobs/sha256"
_END = bytes(1024)


async def save(store: ImageStore, wanted: list[tuple[ImageRecord, list[str]]]) -> AsyncGenerator[bytes, None]:
    """The archive of some images, each with the full names under which the archive lists it."""
    diff_ids = [diff_id for record, _ in wanted for diff_id in store.config(record.id).diff_ids]
    async with store.pinned(diff_ids):
        async with aclosing(in_thread(batched(_archive(store, wanted)))) as pieces:
            async for piece in pieces:
                yield piece


def _archive(store: ImageStore, wanted: list[tuple[ImageRecord, list[str]]]) -> Iterator[bytes]:
    """The archive, piece by piece. Blocking."""
    yield _header("blobs/", 0, tarfile.DIRTYPE) + _header(f"{_BLOBS}/", 0, tarfile.DIRTYPE)
    sizes: dict[str, int] = {}
    written: set[str] = set()
    index: list[Descriptor] = []
    listed: list[ArchivedImage] = []
    repositories: dict[str, dict[str, str]] = {}
    for record, names in wanted:
        diff_ids = store.config(record.id).diff_ids
        for diff_id in diff_ids:
            if diff_id not in sizes:
                sizes[diff_id] = store.tar_size(diff_id)
                yield _header(_blob(diff_id), sizes[diff_id])
                yield from store.tar_of(diff_id)
                yield bytes(-sizes[diff_id] % 512)
        manifest = msgspec.json.encode(
            ImageManifest(
                media_type=OCI_MANIFEST,
                config=Descriptor(media_type=OCI_CONFIG, digest=record.id, size=len(record.config)),
                layers=[Descriptor(media_type=OCI_LAYER, digest=one, size=sizes[one]) for one in diff_ids],
            )
        )
        for digest, content in ((record.id, record.config), (digest_of(manifest), manifest)):
            if digest not in written:
                written.add(digest)
                yield _member(_blob(digest), content)
        descriptor = Descriptor(media_type=OCI_MANIFEST, digest=digest_of(manifest), size=len(manifest))
        familiar = []
        for name in names:
            reference = parse_reference(name)
            familiar.append(str(reference))
            annotations = Annotations(image_name=f"{reference.name}:{reference.tag}", ref_name=reference.tag)
            index.append(msgspec.structs.replace(descriptor, annotations=annotations))
            if diff_ids:
                top = diff_ids[-1].removeprefix("sha256:")
                repositories.setdefault(reference.familiar_name, {})[reference.tag] = top
        if not names:
            index.append(descriptor)
        layers = [_blob(one) for one in diff_ids]
        listed.append(ArchivedImage(config=_blob(record.id), repo_tags=familiar or None, layers=layers))
    yield _member("index.json", msgspec.json.encode(ImageIndex(media_type=OCI_INDEX, manifests=index)))
    yield _member("manifest.json", msgspec.json.encode(listed))
    yield _member("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    if repositories:
        yield _member("repositories", msgspec.json.encode(repositories))
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
