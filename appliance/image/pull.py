"""`docker pull`: manifest, config, layers in parallel, every byte against its digest while it streams."""

import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from appliance.errors import NotFound, ProtocolError, VchError
from appliance.image.reference import Reference
from appliance.image.store import ImageStore, parse_config_untrusted
from appliance.registry import Registry

_PARALLEL = 3
_MAX_CONFIG = 8 << 20
Report = Callable[[dict[str, Any]], Awaitable[None]]
"""Takes one line of progress, as the API sends it."""


async def pull(store: ImageStore, registry: Registry, reference: Reference, report: Report) -> str:
    """Pull one image; return its id. `report` is called from the first manifest on, errors before it are raised plain."""
    wanted = reference.digest or reference.tag
    manifest, digest = await _manifest(registry, reference, wanted)
    name = reference.digest or reference.tag
    await report({"status": f"Pulling from {reference.path}", "id": name})
    try:
        config_blob, layers = manifest["config"], list(manifest["layers"])
        config_digest = str(config_blob["digest"])
        blobs = [(str(layer["digest"]), int(layer.get("size", 0))) for layer in layers]
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"malformed manifest of {reference}: {error!r}") from error
    config = await _config(registry, reference, config_digest)
    diff_ids = parse_config_untrusted(config).diff_ids
    if len(diff_ids) != len(blobs):
        raise ProtocolError(f"malformed image {reference}: {len(blobs)} layers, but {len(diff_ids)} diff ids")
    limiter = trio.CapacityLimiter(_PARALLEL)
    failures: list[VchError] = []
    try:
        async with trio.open_nursery() as nursery:
            for diff_id, (blob, size) in zip(diff_ids, blobs, strict=True):
                nursery.start_soon(_layer, store, registry, reference.path, diff_id, blob, size, limiter, report)
    except* VchError as group:
        failures.extend(_leaves(group))
    if failures:
        raise failures[0]
    record = await store.add_image(config)
    changed = await store.tag(record, reference, time.time(), digest)
    await report({"status": f"Digest: {digest}"})
    word = "Downloaded newer image for" if changed else "Image is up to date for"
    await report({"status": f"Status: {word} {reference}"})
    return record.id


def _leaves(group: BaseExceptionGroup[VchError]) -> list[VchError]:
    found: list[VchError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _check_digest(content: bytes, digest: str, what: str) -> None:
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        raise ProtocolError(f"{what} verification failed for digest {digest}")


async def _manifest(registry: Registry, reference: Reference, wanted: str) -> tuple[dict[str, Any], str]:
    """The manifest for linux/amd64 and the digest by which the user knows the image (the index's, if there is one)."""
    found = await registry.manifest(reference.path, wanted, str(reference))
    digest = f"sha256:{hashlib.sha256(found.content).hexdigest()}"
    if wanted.startswith("sha256:"):
        _check_digest(found.content, wanted, "manifest")
    try:
        manifest = json.loads(found.content)
        if "manifests" in manifest:
            chosen = [
                entry for entry in manifest["manifests"]
                if (entry.get("platform") or {}).get("os") == "linux"
                and (entry.get("platform") or {}).get("architecture") == "amd64"
            ]  # fmt: skip
            if not chosen:
                raise NotFound(f"no matching manifest for linux/amd64 in the manifest list entries for {reference}")
            inner = await registry.manifest(reference.path, str(chosen[0]["digest"]), str(reference))
            _check_digest(inner.content, str(chosen[0]["digest"]), "manifest")
            manifest = json.loads(inner.content)
        if not isinstance(manifest, dict):
            raise TypeError("no object")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"malformed manifest of {reference}: {error!r}") from error
    return manifest, digest


async def _config(registry: Registry, reference: Reference, digest: str) -> bytes:
    parts: list[bytes] = []
    async with registry.blob(reference.path, digest) as pieces:
        async for piece in pieces:
            parts.append(piece)
            if sum(map(len, parts)) > _MAX_CONFIG:
                raise ProtocolError(f"the config of {reference} is too large")
    config = b"".join(parts)
    _check_digest(config, digest, "config")
    return config


async def _layer(
    store: ImageStore, registry: Registry, repository: str, diff_id: str, digest: str, size: int,
    limiter: trio.CapacityLimiter, report: Report,
) -> None:  # fmt: skip
    short = digest.removeprefix("sha256:")[:12]
    if store.has_layer(diff_id):
        await report({"status": "Already exists", "progressDetail": {}, "id": short})
        return
    await report({"status": "Pulling fs layer", "progressDetail": {}, "id": short})
    async with limiter, registry.blob(repository, digest) as pieces:
        sender, receiver = trio.open_memory_channel[bytes](2)
        got = 0

        async def feed() -> None:
            nonlocal got
            next_report = 0.0
            async with sender:
                async for piece in pieces:
                    got += len(piece)
                    if size and got > size:
                        raise ProtocolError(f"layer {digest} is larger than its manifest says")
                    await sender.send(piece)
                    if trio.current_time() >= next_report:
                        next_report = trio.current_time() + 0.1
                        await report({
                            "status": "Downloading", "progressDetail": {"current": got, "total": size}, "id": short,
                        })  # fmt: skip

        def source() -> bytes:
            try:
                return trio.from_thread.run(receiver.receive)
            except trio.EndOfChannel:
                return b""

        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            layer = await store.add_layer(diff_id, source, digest)
            if layer is None:
                # Another pull was quicker with the same layer.
                nursery.cancel_scope.cancel()
    await report({"status": "Download complete", "progressDetail": {}, "id": short})
    await report({"status": "Pull complete", "progressDetail": {}, "id": short})
