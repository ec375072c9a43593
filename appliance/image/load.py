"""`docker load`: archives of `docker save` (manifest.json) and OCI image layouts (index.json), from a file on disk."""

import json
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

import msgspec
import trio

from appliance.errors import ProtocolError
from appliance.image.config import parse_config_untrusted
from appliance.image.platform import OURS
from appliance.image.reference import parse_reference
from appliance.image.store import ImageRecord, ImageStore

_MAX_JSON = 8 << 20
_PIECE = 1 << 20


class _Entry(msgspec.Struct, rename="pascal"):
    """An image in manifest.json: names of members, and of the image."""

    config: str
    layers: list[str] | None
    repo_tags: list[str] | None = None


class _Archive:
    """Members by name; only regular files count, whatever else a hostile archive holds."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            self._tar = tarfile.open(fileobj=file, mode="r:*")  # noqa: SIM115
            self._members = {
                m.name.removeprefix("./"): m for m in self._tar.getmembers() if m.isreg() or m.islnk() or m.issym()
            }
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            # Of what is no archive at all it says a line for each compression.
            text = "invalid tar header" if "\n" in str(error) else error
            raise ProtocolError(f"invalid archive: {text}") from error

    def open(self, name: str) -> IO[bytes]:
        member = self._members.get(name)
        try:
            # docker save of old writes a layer that two images share as a link.
            file = self._tar.extractfile(member) if member is not None else None
        except (KeyError, tarfile.TarError) as error:
            raise ProtocolError(f"invalid archive: {name}: {error}") from error
        if file is None:
            raise ProtocolError(f"invalid archive: {name} is missing")
        return file

    def has(self, name: str) -> bool:
        return name in self._members

    def read_bytes(self, name: str) -> bytes:
        data = self.open(name).read(_MAX_JSON + 1)
        if len(data) > _MAX_JSON:
            raise ProtocolError(f"invalid archive: {name} is too large")
        return data

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read_bytes(name))
        except ValueError as error:
            raise ProtocolError(f"invalid archive: {name}: {error}") from error


def _blob(descriptor: dict[str, Any]) -> str:
    digest = str(descriptor["digest"])
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or not value.isalnum():
        raise ProtocolError(f"invalid archive: unsupported digest {digest[:80]}")
    return f"blobs/sha256/{value}"


def _plan(archive: _Archive) -> list[tuple[str, list[str], list[str], str]]:
    """(config member, layer members, names, manifest digest) of every image for this machine's platform."""
    try:
        if archive.has("manifest.json"):
            entries = msgspec.json.decode(archive.read_bytes("manifest.json"), type=list[_Entry])
            return [(entry.config, entry.layers or [], entry.repo_tags or [], "") for entry in entries]
        if archive.has("index.json"):
            return _plan_index(archive, archive.read_json("index.json"), "")
    except (KeyError, TypeError, AttributeError, RecursionError, msgspec.MsgspecError) as error:
        raise ProtocolError(f"invalid archive: malformed manifest: {error!r}") from error
    raise ProtocolError("invalid archive: neither manifest.json nor index.json is in it")


def _plan_index(archive: _Archive, index: dict[str, Any], name: str) -> list[tuple[str, list[str], list[str], str]]:
    found = []
    for descriptor in index["manifests"]:
        annotations = descriptor.get("annotations") or {}
        own = (
            annotations.get("io.containerd.image.name") or annotations.get("org.opencontainers.image.ref.name") or name
        )
        if not isinstance(own, str):
            raise TypeError("a name is a text")
        if not OURS.fits(descriptor.get("platform") or {}):
            continue
        if not archive.has(_blob(descriptor)):
            continue
        manifest = archive.read_json(_blob(descriptor))
        if "manifests" in manifest:
            found += _plan_index(archive, manifest, own)
        else:
            layers = [_blob(layer) for layer in manifest["layers"]]
            found.append((_blob(manifest["config"]), layers, [own] if own else [], descriptor["digest"]))
    return found


async def load(store: ImageStore, path: Path) -> AsyncIterator[tuple[ImageRecord, str | None]]:
    """Load every image of the archive; yield (image, name or None) as they become usable. ProtocolError when it is broken."""
    with open(path, "rb") as file:
        archive = await trio.to_thread.run_sync(_Archive, file)
        plan = await trio.to_thread.run_sync(_plan, archive)
        for config_name, layers, names, _ in plan:
            config = archive.read_bytes(config_name)
            diff_ids = parse_config_untrusted(config).diff_ids
            if len(diff_ids) != len(layers):
                raise ProtocolError(f"invalid archive: {len(layers)} layers, but {len(diff_ids)} diff ids")
            async with store.pinned(diff_ids):
                for diff_id, layer in zip(diff_ids, layers, strict=True):
                    if not store.has_layer(diff_id):
                        source = archive.open(layer)
                        await store.add_layer(diff_id, lambda source=source: source.read(_PIECE))  # type: ignore[misc]
                record = await store.add_image(config)
            for name in names:
                reference = parse_reference(name).with_default_tag()
                await store.tag(record, reference, time.time())
                yield record, str(reference)
            if not names:
                yield record, None
