"""`docker load`: archives of `docker save` (manifest.json) and OCI image layouts (index.json), from a file on disk."""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from appliance.errors import ProtocolError
from appliance.image.archive import Archive
from appliance.image.config import parse_config_untrusted
from appliance.image.manifest import ArchivedImage, Descriptor, ImageIndex, parse_manifest_untrusted
from appliance.image.platform import OURS, platform_of
from appliance.image.reference import tag_reference
from appliance.image.store import ImageRecord, ImageStore
from appliance.streams.json_values import MAX_VALUES, has_too_many_values

_MAX_MANIFESTS = 10_000
_MALFORMED = "invalid archive: malformed manifest"


@dataclass(frozen=True, slots=True)
class _Plan:
    """An image to load: its config and its layers as members of the archive, lowest layer first, and its names."""

    config: str
    layers: list[str]
    names: list[str]


def _blob(descriptor: Descriptor) -> str:
    """The member that holds a blob."""
    algorithm, _, value = descriptor.digest.partition(":")
    if algorithm != "sha256" or not value.isalnum():
        raise ProtocolError(f"invalid archive: unsupported digest {descriptor.digest[:80]}")
    return f"blobs/sha256/{value}"


def _plan_untrusted(archive: Archive) -> list[_Plan]:
    """Every image for this machine's platform, in the order of the archive."""
    if archive.has("manifest.json"):
        content = archive.read_bytes("manifest.json")
        if has_too_many_values(content):
            raise ProtocolError(f"{_MALFORMED}: more than {MAX_VALUES} values")
        try:
            entries = msgspec.json.decode(content, type=list[ArchivedImage])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ProtocolError(f"{_MALFORMED}: {error}") from error
        if len(entries) > _MAX_MANIFESTS or sum(len(entry.repo_tags or ()) for entry in entries) > _MAX_MANIFESTS:
            raise ProtocolError(f"invalid archive: more than {_MAX_MANIFESTS} images or names")
        return [_Plan(entry.config, entry.layers or [], entry.repo_tags or []) for entry in entries]
    if archive.has("index.json"):
        return _plan_index_untrusted(archive)
    raise ProtocolError("invalid archive: neither manifest.json nor index.json is in it")


def _plan_index_untrusted(archive: Archive) -> list[_Plan]:
    """The images of index.json. An entry may be an index again, whose name its images have by default."""
    found: list[_Plan] = []
    waiting = [("index.json", "")]
    read = 0
    while waiting:
        member, name = waiting.pop()
        read += 1
        if read > _MAX_MANIFESTS:
            raise ProtocolError(f"invalid archive: more than {_MAX_MANIFESTS} manifests")
        manifest = parse_manifest_untrusted(archive.read_bytes(member), _MALFORMED)
        if isinstance(manifest, ImageIndex):
            inner = [(_blob(entry), _name_of(entry) or name) for entry in manifest.manifests if _fits(entry)]
            # An archive may leave out the images of an index that it was not made for.
            waiting += [(blob, own) for blob, own in reversed(inner) if archive.has(blob)]
        elif member == "index.json":
            raise ProtocolError(f"{_MALFORMED}: index.json is not an index")
        else:
            layers = [_blob(layer) for layer in manifest.layers]
            found.append(_Plan(_blob(manifest.config), layers, [name] if name else []))
    return found


def _name_of(entry: Descriptor) -> str:
    annotations = entry.annotations
    return (annotations.image_name or annotations.ref_name or "") if annotations else ""


def _fits(entry: Descriptor) -> bool:
    return not entry.platform or OURS.fits(platform_of(entry.platform.os, entry.platform.architecture))


def _config_untrusted(archive: Archive, plan: _Plan) -> tuple[bytes, list[str]]:
    """An image's config, and the diff ids in it."""
    config = archive.read_bytes(plan.config)
    return config, parse_config_untrusted(config).diff_ids


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image that is usable now, by a name or, with "", by its id. `replaced` is the id of the image that had the name before, or ""."""

    record: ImageRecord
    name: str = ""
    replaced: str = ""


async def load(store: ImageStore, path: Path) -> AsyncGenerator[LoadedImage, None]:
    """Load every image of an archive without compression (see archive.receive); yield each name as soon as it is usable.

    ProtocolError for a broken archive.
    """
    archive = await trio.to_thread.run_sync(Archive, path)
    for plan in await trio.to_thread.run_sync(_plan_untrusted, archive):
        config, diff_ids = await trio.to_thread.run_sync(_config_untrusted, archive, plan)
        if len(diff_ids) != len(plan.layers):
            raise ProtocolError(f"invalid archive: {len(plan.layers)} layers, but {len(diff_ids)} diff ids")
        async with store.pinned(diff_ids):
            for diff_id, layer in zip(diff_ids, plan.layers, strict=True):
                if not store.has_layer(diff_id):
                    await store.add_layer(diff_id, archive.source(layer))
            record = await store.add_image(config)
        for name in plan.names:
            reference = tag_reference(name)
            before = store.id_of(reference)
            await store.tag(record, reference, time.time())
            yield LoadedImage(record, str(reference), before if before != record.id else "")
        if not plan.names:
            yield LoadedImage(record)
