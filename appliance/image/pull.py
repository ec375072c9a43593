"""`docker pull`: fetches manifest, config, and layers in parallel. Each layer is converted and verified while it streams."""

import hashlib
import time
from collections.abc import Awaitable, Callable

import trio

from appliance.errors import NotFound, ProtocolError, one_by_itself
from appliance.image.config import parse_config_untrusted
from appliance.image.known_blobs import Blob
from appliance.image.manifest import Descriptor, ImageIndex, ImageManifest, parse_manifest_untrusted
from appliance.image.platform import OURS, Platform, platform_of
from appliance.image.progress import Progress, Report, layer_progress
from appliance.image.reference import Reference
from appliance.image.retry import Attempts
from appliance.image.store import ImageStore
from appliance.registry import ComeBackLater, Manifest, Registry, read_at_most

_PARALLEL = 3
_MAX_CONFIG = 4 << 20
_CONFIGS = frozenset(
    (
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/octet-stream",
    )
)
_LAYERS = frozenset(
    (
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        *(
            f"application/vnd.oci.image.layer.{kind}v1.tar{compression}"
            for kind in ("", "nondistributable.")
            for compression in ("", "+gzip", "+zstd")
        ),
    )
)


async def pull(
    store: ImageStore, registry: Registry, reference: Reference, report: Report, platform: Platform = OURS
) -> str:
    """Pull one image; return its id. The first report follows the manifest: an error before it comes without a report."""
    wanted = reference.digest or reference.tag
    manifest, digest = await _manifest(registry, reference, wanted, platform)
    await report(Progress(status=f"Pulling from {reference.path}", id=wanted))
    _check_kind(manifest.config, _CONFIGS)
    for layer in manifest.layers:
        _check_kind(layer, _LAYERS)
    blobs = [Blob(layer.digest, layer.size, layer.media_type or "", reference.name) for layer in manifest.layers]
    config = await _config(registry, reference, manifest.config.digest)
    parsed = await trio.to_thread.run_sync(parse_config_untrusted, config)
    if len(parsed.diff_ids) != len(blobs):
        raise ProtocolError(f"malformed image {reference}: {len(blobs)} layers, but {len(parsed.diff_ids)} diff ids")
    if platform.given and not platform.fits(parsed.platform):
        raise NotFound(
            f"image with reference {reference} was found but does not match the specified platform: wanted {platform}, "
            f"actual: {parsed.platform}"
        )
    async with store.pinned(parsed.diff_ids):
        await _layers(store, registry, reference.path, list(zip(parsed.diff_ids, blobs, strict=True)), report)
        record = await store.add_image(config)
    changed = await store.tag(record, reference, time.time(), digest)
    await report(Progress(status=f"Digest: {digest}"))
    word = "Downloaded newer image for" if changed else "Image is up to date for"
    await report(Progress(status=f"Status: {word} {reference}"))
    return record.id


def _check_kind(descriptor: Descriptor, known: frozenset[str]) -> None:
    """Registries hold other things than images, such as charts and signatures."""
    if descriptor.media_type and descriptor.media_type not in known:
        raise ProtocolError(f"unsupported media type {descriptor.media_type}")


async def _layers(
    store: ImageStore, registry: Registry, repository: str, layers: list[tuple[str, Blob]], report: Report
) -> None:
    """Fetch the layers that the store does not have, several at a time."""
    limiter = trio.CapacityLimiter(_PARALLEL)
    with one_by_itself():
        async with trio.open_nursery() as nursery:
            for diff_id, blob in layers:
                nursery.start_soon(_layer, store, registry, repository, diff_id, blob, limiter, report)


def _check_digest(content: bytes, digest: str, what: str) -> None:
    if digest_of(content) != digest:
        raise ProtocolError(f"{what} verification failed for digest {digest}")


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


async def find_manifest(registry: Registry, reference: Reference, wanted: str) -> Manifest:
    """Fetch a manifest or index by tag or digest, and verify the content when the caller gave a digest."""
    attempts = Attempts()
    while True:
        try:
            found = await registry.manifest(reference.path, wanted, str(reference))
        except ComeBackLater as error:
            await attempts.failed(error)
            continue
        if wanted.startswith("sha256:"):
            _check_digest(found.content, wanted, "manifest")
        return found


async def _manifest(
    registry: Registry, reference: Reference, wanted: str, platform: Platform
) -> tuple[ImageManifest, str]:
    """The manifest for the platform, and the digest that the user sees: that of the index, if the registry has one."""
    complaint = f"malformed manifest of {reference}"
    found = await find_manifest(registry, reference, wanted)
    manifest = await trio.to_thread.run_sync(parse_manifest_untrusted, found.content, complaint, found.media_type)
    if isinstance(manifest, ImageIndex):
        chosen = [entry for entry in manifest.manifests if platform.fits(_platform_in(entry))]
        if not chosen:
            raise NotFound(f"no matching manifest for {platform} in the manifest list entries for {reference}")
        inner = await find_manifest(registry, reference, chosen[0].digest)
        _check_digest(inner.content, chosen[0].digest, "manifest")
        manifest = await trio.to_thread.run_sync(parse_manifest_untrusted, inner.content, complaint, inner.media_type)
        if isinstance(manifest, ImageIndex):
            raise ProtocolError(f"{complaint}: an index inside of an index")
    return manifest, digest_of(found.content)


def _platform_in(entry: Descriptor) -> Platform:
    return platform_of(entry.platform.os, entry.platform.architecture) if entry.platform else OURS


async def _config(registry: Registry, reference: Reference, digest: str) -> bytes:
    attempts = Attempts()
    while True:
        try:
            async with registry.blob(reference.path, digest) as pieces:
                config = await read_at_most(pieces, _MAX_CONFIG)
        except ComeBackLater as error:
            await attempts.failed(error)
            continue
        if config is None:
            raise ProtocolError(f"the config of {reference} is too large")
        _check_digest(config, digest, "config")
        return config


async def _layer(
    store: ImageStore,
    registry: Registry,
    repository: str,
    diff_id: str,
    blob: Blob,
    limiter: trio.CapacityLimiter,
    report: Report,
) -> None:
    if store.has_layer(diff_id):
        await report(layer_progress("Already exists", blob.digest))
        return
    await report(layer_progress("Pulling fs layer", blob.digest))
    async with limiter:
        sender, receiver = trio.open_memory_channel[bytes](2)

        async def progress(got: int) -> None:
            await report(layer_progress("Downloading", blob.digest, got, blob.size))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_download, registry, repository, blob, sender, progress)
            layer = await store.add_layer(diff_id, receiver, blob)
            if layer is None:
                # Another pull has stored the same layer meanwhile.
                nursery.cancel_scope.cancel()
    await report(layer_progress("Download complete", blob.digest))
    await report(layer_progress("Pull complete", blob.digest))


async def _download(
    registry: Registry,
    repository: str,
    blob: Blob,
    sender: trio.MemorySendChannel[bytes],
    progress: Callable[[int], Awaitable[None]],
) -> None:
    """Send a blob's bytes to the converter. A download that breaks off resumes at the same byte."""
    got = 0
    next_report = 0.0
    attempts = Attempts()
    async with sender:
        while True:
            try:
                with trio.CancelScope() as scope:
                    async with registry.blob(repository, blob.digest, got) as pieces:
                        async for piece in pieces:
                            got += len(piece)
                            attempts.succeeded()
                            if blob.size and got > blob.size:
                                scope.cancel()
                                continue
                            await sender.send(piece)
                            if trio.current_time() >= next_report:
                                next_report = trio.current_time() + 0.1
                                await progress(got)
                if blob.size and got > blob.size:
                    raise ProtocolError(f"layer {blob.digest} is larger than its manifest says")
                if got < blob.size:
                    raise ComeBackLater(f"layer {blob.digest} ended after {got} of {blob.size} bytes")
                return
            except ComeBackLater as error:
                await attempts.failed(error)
