"""An image as a registry has it: the manifest that the door of builds serves, and the check of what a build has pushed."""

from collections.abc import Mapping

import msgspec

from appliance.errors import ProtocolError
from appliance.image.config import parse_config_untrusted
from appliance.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    DOCKER_PLAIN_LAYER,
    Descriptor,
    ImageIndex,
    ImageManifest,
    parse_manifest_untrusted,
)
from appliance.image.store import ImageRecord, ImageStore

_MALFORMED = "malformed manifest of a build"


def manifest_of(store: ImageStore, record: ImageRecord) -> bytes:
    """The manifest (schema 2) of an image here: its layers are plain tars, so a layer's digest is its diff ID.

    Blocking. These bytes must never change for an image: BuildKit's cache knows a base image by the digest of its manifest. OSError or
    ProtocolError when the recipe of a layer is missing or damaged.
    """
    layers = [
        Descriptor(media_type=DOCKER_PLAIN_LAYER, size=store.tar_size(diff_id), digest=diff_id)
        for diff_id in store.config(record.id).diff_ids
    ]
    config = Descriptor(media_type=DOCKER_CONFIG, size=len(record.config), digest=record.id)
    return msgspec.json.encode(ImageManifest(media_type=DOCKER_MANIFEST, config=config, layers=layers))


def parse_pushed_untrusted(content: bytes, media_type: str) -> ImageManifest:
    """Decode the manifest that a build pushes. `media_type` is the one that the client names. ProtocolError for anything else."""
    manifest = parse_manifest_untrusted(content, _MALFORMED, media_type)
    if isinstance(manifest, ImageIndex):
        raise ProtocolError("a build for several platforms, or with attestations, is not supported: it pushes an index")
    return manifest


def check_pushed_untrusted(manifest: ImageManifest, config: bytes, layers: Mapping[str, str]) -> list[str]:
    """The diff IDs of an image that a build has pushed. `layers` has the diff ID of each pushed blob by its digest.

    ProtocolError when the config is malformed, or its diff IDs are not those of the manifest's layers, in the same order.
    """
    diff_ids = parse_config_untrusted(config).diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise ProtocolError(f"{_MALFORMED}: {len(manifest.layers)} layers, but {len(diff_ids)} diff ids")
    for diff_id, layer in zip(diff_ids, manifest.layers, strict=True):
        found = layers.get(layer.digest)
        if found is None:
            raise ProtocolError(f"{_MALFORMED}: layer {layer.digest[:80]} was not pushed")
        if found != diff_id:
            raise ProtocolError(
                f"{_MALFORMED}: layer {layer.digest} has the diff id {found}, its config says {diff_id}"
            )
    return diff_ids
