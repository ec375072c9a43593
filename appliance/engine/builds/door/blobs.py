"""What buildkitd pulls: the manifest of each local image, its config, and its layers as tars made from their recipes."""

import logging
from contextlib import aclosing

import trio

from appliance.buildkit.door_names import repository_of
from appliance.engine.builds.door.answers import content_digest, range_of
from appliance.errors import NotFound, ProtocolError
from appliance.http import Disconnected, Reply
from appliance.image.layout import manifest_of
from appliance.image.manifest import DOCKER_MANIFEST
from appliance.image.pull import digest_of
from appliance.image.store import ImageRecord, ImageStore
from appliance.image.tars import batched, in_thread

log = logging.getLogger(__name__)

_OCTETS = "application/octet-stream"
# Manifests that are found without making those of other images. Removed images leave theirs behind.
_MOST_KNOWN = 10_000
# A client that does not read holds one of the few connections, and a layer.
_STALL_SECONDS = 300.0


class LocalImages:
    """The images of the store as a registry serves them. The path of an image is its full name (buildkit/door_names.py)."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        # The image of each manifest that was made, by the manifest's digest.
        self._images: dict[str, str] = {}

    def manifest_digest(self, record: ImageRecord) -> str:
        """The digest of the manifest that stands for an image. May block. NotFound when the image cannot be served."""
        return self._manifest(record)[0]

    def _manifest(self, record: ImageRecord) -> tuple[str, bytes]:
        try:
            content = manifest_of(self._store, record)
        except (OSError, KeyError, ProtocolError) as error:
            raise NotFound(
                f"image {record.id[7:19]} cannot be a base: the recipe of a layer is missing or damaged; pull or load it again"
            ) from error
        digest = digest_of(content)
        if len(self._images) >= _MOST_KNOWN:
            self._images.clear()
        self._images[digest] = record.id
        return digest, content

    def _find(self, path: str, wanted: str) -> tuple[str, bytes]:
        """The manifest of a repository's tag or digest. Blocking."""
        repository = repository_of(path) or ""
        if not wanted.startswith("sha256:"):
            for record in self._store.all():
                if f"{repository}:{wanted}" in record.references:
                    return self._manifest(record)
        elif (known := self._images.get(wanted)) is not None:
            for record in self._store.all():
                if record.id == known:
                    return self._manifest(record)
            # Another thread may have dropped it.
            self._images.pop(wanted, None)
        else:
            # After a restart of vchd, no manifest was made yet.
            for record in self._store.all():
                if any(name.startswith((f"{repository}:", f"{repository}@")) for name in _names(record)):
                    digest, content = self._manifest(record)
                    if digest == wanted:
                        return digest, content
        raise NotFound(f"manifest unknown: {repository}:{wanted}")

    async def answer_manifest(self, reply: Reply, path: str, wanted: str) -> None:
        """GET or HEAD of /v2/PATH/manifests/WANTED. NotFound when no local image has the name."""
        digest, content = await trio.to_thread.run_sync(self._find, path, wanted)
        await reply.raw(200, DOCKER_MANIFEST.encode(), content, content_digest(digest))

    async def answer_blob(self, reply: Reply, digest: str, wanted_range: str) -> None:
        """GET or HEAD of a blob: the tar of a layer by its diff ID, or a config by its image ID. NotFound when it is not here."""
        if self._store.has_layer(digest):
            # An image that is removed meanwhile leaves its layers until they are sent.
            async with self._store.pinned([digest]):
                await self._answer_layer(reply, digest, wanted_range)
            return
        config = next((record.config for record in self._store.all() if record.id == digest), None)
        if config is None:
            raise NotFound(f"blob unknown to registry: {digest}")
        await reply.raw(200, _OCTETS.encode(), config, content_digest(digest))

    async def _answer_layer(self, reply: Reply, diff_id: str, wanted_range: str) -> None:
        try:
            size = await trio.to_thread.run_sync(self._store.tar_size, diff_id)
        except (OSError, ProtocolError) as error:
            raise NotFound(f"blob unknown to registry: {diff_id}: its recipe is missing or damaged") from error
        part = range_of(wanted_range, size)
        first, end = part or (0, size)
        headers = b"Accept-Ranges: bytes\r\n" + content_digest(diff_id)
        if part is not None:
            headers += b"Content-Range: bytes %d-%d/%d\r\n" % (first, end - 1, size)
        await reply.start(_OCTETS, 200 if part is None else 206, headers, length=end - first)
        if reply.head_only:
            return
        left = end - first
        try:
            async with aclosing(in_thread(batched(self._store.tar_of(diff_id, first)))) as pieces:
                async for piece in pieces:
                    with trio.fail_after(_STALL_SECONDS):
                        await reply.write(piece[:left])
                    left -= min(left, len(piece))
                    if not left:
                        return
        except (OSError, ProtocolError) as error:
            log.error("layer %s was not sent to the builder: %s", diff_id, error)
            # The head is out: only the end of the connection tells that bytes are missing.
            raise Disconnected from error
        except trio.TooSlowError as error:
            raise Disconnected from error
        if left:
            raise Disconnected


def _names(record: ImageRecord) -> list[str]:
    return [*record.references, *record.digests]
