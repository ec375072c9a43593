"""`docker pull`: manifest, config, layers in parallel, every byte against its digest while it streams."""

import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from appliance.errors import NotFound, ProtocolError, one_by_itself
from appliance.image.config import parse_config_untrusted
from appliance.image.layer import received
from appliance.image.platform import OURS, Platform, platform_of
from appliance.image.reference import Reference
from appliance.image.retry import Attempts
from appliance.image.store import Blob, ImageStore
from appliance.registry import ComeBackLater, Manifest, Registry, read_at_most

_PARALLEL = 3
_MAX_CONFIG = 8 << 20
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
Report = Callable[[dict[str, Any]], Awaitable[None]]
"""Takes one line of progress, as the API sends it."""


async def pull(
    store: ImageStore, registry: Registry, reference: Reference, report: Report, platform: Platform = OURS
) -> str:
    """Pull one image; return its id. `report` is called from the first manifest on, errors before it are raised plain."""
    wanted = reference.digest or reference.tag
    manifest, digest = await _manifest(registry, reference, wanted, platform)
    await report({"status": f"Pulling from {reference.path}", "id": wanted})
    try:
        config_blob, layers = manifest["config"], list(manifest["layers"])
        config_digest = str(config_blob["digest"])
        _check_kind(str(config_blob.get("mediaType") or ""), _CONFIGS)
        for layer in layers:
            _check_kind(str(layer.get("mediaType") or ""), _LAYERS)
        blobs = [
            Blob(str(layer["digest"]), int(layer.get("size", 0)), str(layer.get("mediaType") or ""), reference.name)
            for layer in layers
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"malformed manifest of {reference}: {error!r}") from error
    config = await _config(registry, reference, config_digest)
    parsed = parse_config_untrusted(config)
    if len(parsed.diff_ids) != len(blobs):
        raise ProtocolError(f"malformed image {reference}: {len(blobs)} layers, but {len(parsed.diff_ids)} diff ids")
    if platform.given and not platform.fits(parsed.raw):
        actual = platform_of(parsed.raw)
        raise NotFound(
            f"image with reference {reference} was found but does not match the specified platform: wanted {platform}, actual: {actual}"
        )
    async with store.pinned(parsed.diff_ids):
        await _layers(store, registry, reference.path, list(zip(parsed.diff_ids, blobs, strict=True)), report)
        record = await store.add_image(config)
    changed = await store.tag(record, reference, time.time(), digest)
    await report({"status": f"Digest: {digest}"})
    word = "Downloaded newer image for" if changed else "Image is up to date for"
    await report({"status": f"Status: {word} {reference}"})
    return record.id


def _check_kind(media_type: str, known: frozenset[str]) -> None:
    """What is no image (a chart, a signature...) can be in a registry too."""
    if media_type and media_type not in known:
        raise ProtocolError(f"unsupported media type {media_type}")


async def _layers(
    store: ImageStore, registry: Registry, repository: str, layers: list[tuple[str, Blob]], report: Report
) -> None:
    """Have all of them here, several at a time."""
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
    """A manifest or index by tag or digest; it is what it says when its digest was asked for."""
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
) -> tuple[dict[str, Any], str]:
    """The manifest for the platform and the digest by which the user knows the image (the index's, if there is one)."""
    found = await find_manifest(registry, reference, wanted)
    try:
        manifest = json.loads(found.content)
        if "manifests" in manifest:
            chosen = [entry for entry in manifest["manifests"] if platform.fits(entry.get("platform") or {})]
            if not chosen:
                raise NotFound(f"no matching manifest for {platform} in the manifest list entries for {reference}")
            inner = await find_manifest(registry, reference, str(chosen[0]["digest"]))
            manifest = json.loads(inner.content)
        if not isinstance(manifest, dict):
            raise TypeError("no object")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"malformed manifest of {reference}: {error!r}") from error
    if manifest.get("schemaVersion") == 1:
        raise ProtocolError(
            f"{reference} has a manifest of schema 1, which is not supported: it was replaced by schema 2 in 2016"
        )
    return manifest, digest_of(found.content)


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
    short = blob.digest.removeprefix("sha256:")[:12]
    if store.has_layer(diff_id):
        await report({"status": "Already exists", "progressDetail": {}, "id": short})
        return
    await report({"status": "Pulling fs layer", "progressDetail": {}, "id": short})
    async with limiter:
        sender, receiver = trio.open_memory_channel[bytes](2)

        async def progress(got: int) -> None:
            await report(
                {
                    "status": "Downloading",
                    "progressDetail": {"current": got, "total": blob.size},
                    "id": short,
                }
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_download, registry, repository, blob, sender, progress)
            layer = await store.add_layer(diff_id, received(receiver), blob)
            if layer is None:
                # Another pull was quicker with the same layer.
                nursery.cancel_scope.cancel()
    await report({"status": "Download complete", "progressDetail": {}, "id": short})
    await report({"status": "Pull complete", "progressDetail": {}, "id": short})


async def _download(
    registry: Registry,
    repository: str,
    blob: Blob,
    sender: trio.MemorySendChannel[bytes],
    progress: Callable[[int], Awaitable[None]],
) -> None:
    """Send on all of a blob; where the registry breaks off, it goes on from there."""
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
