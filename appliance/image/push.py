"""`docker push`: layers that the registry does not have, compressed anew, then config and manifest (image manifest v2, schema 2)."""

import json
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from appliance.errors import one_by_itself
from appliance.image.pull import Report, digest_of
from appliance.image.reference import Reference
from appliance.image.retry import Attempts
from appliance.image.store import Blob, ImageRecord, ImageStore
from appliance.image.tars import compress
from appliance.registry import ComeBackLater, Registry

_T = TypeVar("_T")
_PARALLEL = 3
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_GZIPPED = frozenset((_LAYER, "application/vnd.oci.image.layer.v1.tar+gzip"))


async def push(
    store: ImageStore, registry: Registry, record: ImageRecord, reference: Reference, scratch: Path, report: Report
) -> str:
    """Push one tag; the manifest's digest. `reference` has a tag."""
    diff_ids = store.config(record.id).diff_ids
    blobs: dict[str, Blob] = {}
    limiter = trio.CapacityLimiter(_PARALLEL)

    async def one(diff_id: str) -> None:
        await report({"status": "Preparing", "progressDetail": {}, "id": _short(diff_id)})
        async with limiter:
            blobs[diff_id] = await _push_layer(store, registry, reference, diff_id, scratch, report)
        await store.learn(diff_id, blobs[diff_id])

    with one_by_itself():
        async with store.pinned(diff_ids), trio.open_nursery() as nursery:
            for diff_id in dict.fromkeys(reversed(diff_ids)):
                nursery.start_soon(one, diff_id)
    await _push_config(registry, reference, record)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "size": len(record.config), "digest": record.id},
            "layers": [
                {"mediaType": _LAYER, "size": blobs[diff_id].size, "digest": blobs[diff_id].digest}
                for diff_id in diff_ids
            ],
        },
        indent=3,
    ).encode()
    await _again(lambda: registry.put_manifest(reference.path, reference.tag, manifest, _MANIFEST))
    digest = digest_of(manifest)
    await store.tag(record, Reference(reference.domain, reference.path), 0.0, digest)
    await report({"status": f"{reference.tag}: digest: {digest} size: {len(manifest)}"})
    await report({"progressDetail": {}, "aux": {"Tag": reference.tag, "Digest": digest, "Size": len(manifest)}})
    return digest


def _short(diff_id: str) -> str:
    return diff_id.removeprefix("sha256:")[:12]


async def _again(work: Callable[[], Awaitable[_T]]) -> _T:
    """Do it, and again while the registry fails for now."""
    attempts = Attempts()
    while True:
        try:
            return await work()
        except ComeBackLater as error:
            await attempts.failed(error)


async def _push_layer(
    store: ImageStore, registry: Registry, reference: Reference, diff_id: str, scratch: Path, report: Report
) -> Blob:
    """Have a layer in the repository: it is there, it is in another one of the same registry, or it is uploaded."""
    short = _short(diff_id)
    known = [blob for blob in store.blobs_of(diff_id) if blob.media_type in _GZIPPED]
    for blob in {blob.digest: blob for blob in known}.values():
        if await _again(partial(registry.has_blob, reference.path, blob.digest)):
            await report({"status": "Layer already exists", "progressDetail": {}, "id": short})
            return Blob(blob.digest, blob.size, _LAYER, reference.name)
    for blob in known:
        domain, _, path = blob.repository.partition("/")
        if domain != reference.domain or path == reference.path:
            continue
        if await _again(partial(registry.mount_blob, reference.path, blob.digest, path)):
            await report({"status": f"Mounted from {path}", "progressDetail": {}, "id": short})
            return Blob(blob.digest, blob.size, _LAYER, reference.name)
    with tempfile.TemporaryFile(dir=scratch) as file:
        digest, size = await trio.to_thread.run_sync(compress, store, diff_id, file)
        if await _again(lambda: registry.has_blob(reference.path, digest)):
            await report({"status": "Layer already exists", "progressDetail": {}, "id": short})
            return Blob(digest, size, _LAYER, reference.name)
        next_report = 0.0

        async def sent(position: int) -> None:
            nonlocal next_report
            if trio.current_time() >= next_report:
                next_report = trio.current_time() + 0.1
                detail = {"current": position, "total": size}
                await report({"status": "Pushing", "progressDetail": detail, "id": short})

        await _again(lambda: registry.upload(reference.path, file, size, digest, sent))
    await report({"status": "Pushed", "progressDetail": {}, "id": short})
    return Blob(digest, size, _LAYER, reference.name)


async def _push_config(registry: Registry, reference: Reference, record: ImageRecord) -> None:
    if await _again(lambda: registry.has_blob(reference.path, record.id)):
        return

    async def sent(_: int) -> None:
        pass

    with tempfile.TemporaryFile() as file:
        file.write(record.config)
        await _again(lambda: registry.upload(reference.path, file, len(record.config), record.id, sent))
