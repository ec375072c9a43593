"""`docker push`: uploads the layers that the registry lacks, then the config and the manifest (image manifest v2, schema 2)."""

import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from appliance.errors import one_by_itself
from appliance.image.known_blobs import Blob
from appliance.image.manifest import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, OCI_LAYER, Descriptor, ImageManifest
from appliance.image.progress import Progress, ProgressDetail, PushResult, Report, layer_progress
from appliance.image.pull import digest_of
from appliance.image.reference import Reference
from appliance.image.retry import Attempts
from appliance.image.store import ImageRecord, ImageStore
from appliance.image.tars import compress
from appliance.registry import ComeBackLater, Registry

_T = TypeVar("_T")
_PARALLEL = 3
_GZIPPED = frozenset((DOCKER_LAYER, f"{OCI_LAYER}+gzip"))


async def push(
    store: ImageStore, registry: Registry, record: ImageRecord, reference: Reference, scratch: Path, report: Report
) -> str:
    """Push one tag; return the manifest's digest. `reference` has a tag."""
    diff_ids = store.config(record.id).diff_ids
    blobs: dict[str, Blob] = {}
    limiter = trio.CapacityLimiter(_PARALLEL)

    async def one(diff_id: str) -> None:
        await report(layer_progress("Preparing", diff_id))
        async with limiter:
            blobs[diff_id] = await _push_layer(store, registry, reference, diff_id, scratch, report)
        await store.learn(diff_id, blobs[diff_id])

    with one_by_itself():
        async with store.pinned(diff_ids), trio.open_nursery() as nursery:
            for diff_id in dict.fromkeys(reversed(diff_ids)):
                nursery.start_soon(one, diff_id)
    await _push_config(registry, reference, record)
    manifest = _manifest(record, [blobs[diff_id] for diff_id in diff_ids])
    await _again(lambda: registry.put_manifest(reference.path, reference.tag, manifest, DOCKER_MANIFEST))
    digest = digest_of(manifest)
    await store.tag(record, Reference(reference.domain, reference.path), 0.0, digest)
    await report(Progress(status=f"{reference.tag}: digest: {digest} size: {len(manifest)}"))
    result = PushResult(reference.tag, digest, len(manifest))
    await report(Progress(progress_detail=ProgressDetail(), aux=result))
    return digest


def _manifest(record: ImageRecord, layers: list[Blob]) -> bytes:
    """The manifest with moby's indentation: an image has the same digest when Docker pushes it."""
    manifest = ImageManifest(
        media_type=DOCKER_MANIFEST,
        config=Descriptor(media_type=DOCKER_CONFIG, size=len(record.config), digest=record.id),
        layers=[Descriptor(media_type=DOCKER_LAYER, size=layer.size, digest=layer.digest) for layer in layers],
    )
    return msgspec.json.format(msgspec.json.encode(manifest), indent=3)


async def _again(work: Callable[[], Awaitable[_T]]) -> _T:
    """Do the work, and repeat it while the registry fails for now."""
    attempts = Attempts()
    while True:
        try:
            return await work()
        except ComeBackLater as error:
            await attempts.failed(error)


async def _push_layer(
    store: ImageStore, registry: Registry, reference: Reference, diff_id: str, scratch: Path, report: Report
) -> Blob:
    """Bring a layer into the repository: find it there, mount it from another repository of the registry, or upload it."""
    known = [blob for blob in store.blobs_of(diff_id) if blob.media_type in _GZIPPED]
    for blob in {blob.digest: blob for blob in known}.values():
        if await _again(partial(registry.has_blob, reference.path, blob.digest)):
            await report(layer_progress("Layer already exists", diff_id))
            return Blob(blob.digest, blob.size, DOCKER_LAYER, reference.name)
    for blob in known:
        domain, _, path = blob.repository.partition("/")
        if domain != reference.domain or path == reference.path:
            continue
        if await _again(partial(registry.mount_blob, reference.path, blob.digest, path)):
            await report(layer_progress(f"Mounted from {path}", diff_id))
            return Blob(blob.digest, blob.size, DOCKER_LAYER, reference.name)
    with tempfile.TemporaryFile(dir=scratch) as file:
        digest, size = await trio.to_thread.run_sync(compress, store, diff_id, file)
        if await _again(lambda: registry.has_blob(reference.path, digest)):
            await report(layer_progress("Layer already exists", diff_id))
            return Blob(digest, size, DOCKER_LAYER, reference.name)
        next_report = 0.0

        async def sent(position: int) -> None:
            nonlocal next_report
            if trio.current_time() >= next_report:
                next_report = trio.current_time() + 0.1
                await report(layer_progress("Pushing", diff_id, position, size))

        await _again(lambda: registry.upload(reference.path, file, size, digest, sent))
    await report(layer_progress("Pushed", diff_id))
    return Blob(digest, size, DOCKER_LAYER, reference.name)


async def _push_config(registry: Registry, reference: Reference, record: ImageRecord) -> None:
    if await _again(lambda: registry.has_blob(reference.path, record.id)):
        return

    async def sent(_: int) -> None:
        pass

    with tempfile.TemporaryFile() as file:
        file.write(record.config)
        await _again(lambda: registry.upload(reference.path, file, len(record.config), record.id, sent))
