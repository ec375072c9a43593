"""What buildkitd pushes: the layers, the config and the manifest of one image for each build.

A layer goes from the connection to the process that converts it, and is stored once. What is not part of the image that the build
finishes is removed when its upload ends.
"""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import trio

from appliance.engine.builds.contracts import PushedImage
from appliance.engine.builds.door.bodies import BlobBody, is_document, media_type_of, read_document
from appliance.errors import Conflict, InvalidParameter, NotFound, ProtocolError
from appliance.image.conversion import MOST_CONVERSIONS
from appliance.image.known_blobs import Blob
from appliance.image.layout import check_pushed_untrusted, parse_pushed_untrusted
from appliance.image.pins import Pins
from appliance.image.pull import digest_of
from appliance.image.store import ImageStore

MAX_CONFIG = 4 << 20
MAX_MANIFEST = 1 << 20
MAX_LAYERS = 512
# Documents that are received at the same time.
_MOST_DOCUMENTS = 4


@dataclass(frozen=True, slots=True)
class _Manifest:
    digest: str
    media_type: str
    content: bytes
    config: bytes


class BuildUpload:
    """The pushes of one build (contracts.Upload). `receiving` surrounds each request; the others are its requests."""

    def __init__(self, identity: str, store: ImageStore, pins: Pins, room: "_Room") -> None:
        self._id = identity
        self._store = store
        self._pins = pins
        self._room = room
        # The diff ID of each layer, by the digest of its blob.
        self._layers: dict[str, str] = {}
        # The last config that came, by its digest. BuildKit pushes one image.
        self._configs: dict[str, bytes] = {}
        self._manifest: _Manifest | None = None
        # Blobs that came by PATCH and wait for the PUT that says their digests, by the upload's session.
        self._patched: dict[str, str] = {}
        self._scopes: set[trio.CancelScope] = set()
        self._idle = trio.Event()

    @property
    def id(self) -> str:
        """See Upload."""
        return self._id

    async def finish(self) -> PushedImage:
        """See Upload."""
        if self._manifest is None:
            raise ProtocolError("the build has pushed no image")
        record = await self._store.add_image(self._manifest.config)
        return PushedImage(record.id, self._store.size(record))

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """The block is a request. NotFound if the upload ends before the block does: the block is cancelled then."""
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
                if not self._scopes:
                    self._idle.set()
        if scope.cancelled_caught:
            raise NotFound(f"upload {self._id} has ended")

    async def cancel_requests(self) -> None:
        """End the requests under way, and wait until they have let go of their layers."""
        while self._scopes:
            self._idle = trio.Event()
            for scope in self._scopes:
                scope.cancel()
            await self._idle.wait()

    # -- blobs ----------------------------------------------------------------------------------------------------

    async def find(self, digest: str) -> int | None:
        """Bytes of a blob that need not be pushed, since it is here; None for a blob that the door lacks."""
        if (config := self._configs.get(digest)) is not None:
            return len(config)
        found = self._store.find_blob(digest)
        if found is None:
            return None
        diff_id, blob = found
        # Before any other task may remove the layer.
        self._hold(digest, diff_id)
        return blob.size if blob is not None else await trio.to_thread.run_sync(self._store.tar_size, diff_id)

    def _hold(self, digest: str, diff_id: str) -> None:
        if digest not in self._layers and len(self._layers) >= MAX_LAYERS:
            raise InvalidParameter(f"the build pushes more than {MAX_LAYERS} layers")
        self._layers[digest] = diff_id
        self._pins.add(diff_id)

    @staticmethod
    def start() -> str:
        """A session for the upload of a blob. It has no state until a body came by PATCH."""
        return secrets.token_hex(16)

    async def patch(self, session: str, body: BlobBody) -> None:
        """The whole blob of a session; its digest follows by `put`. Conflict for a second part of the blob."""
        if session in self._patched:
            raise Conflict("the door takes a blob in one piece")
        if len(self._patched) >= MAX_LAYERS:
            raise InvalidParameter(f"the build pushes more than {MAX_LAYERS} layers")
        self._patched[session] = ""
        try:
            self._patched[session] = await self._receive(body, None)
        except BaseException:
            del self._patched[session]
            raise

    async def put(self, session: str, digest: str, body: BlobBody) -> None:
        """The blob of a session, or its end after `patch`. InvalidParameter for another digest than that of the bytes."""
        if session not in self._patched:
            await self._receive(body, digest)
        elif await body.peek():
            raise Conflict("the door takes a blob in one piece")
        elif (found := self._patched.pop(session)) != digest:
            raise _other_digest(found, digest)

    async def _receive(self, body: BlobBody, wanted: str | None) -> str:
        """Take a blob, and return its digest."""
        start = await body.peek()
        if is_document(start):
            async with self._room.documents:
                config = await read_document(body, MAX_CONFIG, "config of the image")
            digest = await trio.to_thread.run_sync(digest_of, config)
            if wanted is not None and digest != wanted:
                raise _other_digest(digest, wanted)
            self._configs = {digest: config}
            return digest
        # A layer with a wrong digest goes at once, and not with the upload.
        async with self._room.conversions, self._store.pins() as pins:
            layer = await self._store.add_new_layer(body, pins)
            if wanted is not None and layer.digest != wanted:
                raise _other_digest(layer.digest, wanted)
            self._hold(layer.digest, layer.diff_id)
        if layer.digest != layer.diff_id:
            # The next build on the same base does not send it again.
            await self._store.learn(layer.diff_id, Blob(layer.digest, body.size, media_type_of(start), ""))
        return layer.digest

    # -- manifests ------------------------------------------------------------------------------------------------

    def manifest(self) -> tuple[str, str, bytes] | None:
        """Digest, media type and bytes of the manifest that the build has pushed, None before."""
        return (self._manifest.digest, self._manifest.media_type, self._manifest.content) if self._manifest else None

    async def put_manifest(self, wanted: str, media_type: str, body: BlobBody) -> str:
        """The image is complete: check it, and return its manifest's digest. `wanted` is a tag or a digest."""
        async with self._room.documents:
            content = await read_document(body, MAX_MANIFEST, "manifest")
        digest = await trio.to_thread.run_sync(digest_of, content)
        if wanted.startswith("sha256:") and digest != wanted:
            raise _other_digest(digest, wanted)
        if self._manifest is not None and self._manifest.digest != digest:
            raise InvalidParameter("the build has pushed an image already")
        manifest = await trio.to_thread.run_sync(parse_pushed_untrusted, content, media_type)
        config = self._configs.get(manifest.config.digest)
        if config is None:
            raise ProtocolError(f"config {manifest.config.digest[:80]} was not pushed")
        await trio.to_thread.run_sync(check_pushed_untrusted, manifest, config, dict(self._layers))
        self._manifest = _Manifest(digest, media_type, content, config)
        return digest


def _other_digest(found: str, wanted: str) -> InvalidParameter:
    return InvalidParameter(
        f"provided digest did not match uploaded content: {wanted} was given, {found} is that of the bytes"
    )


class _Room:
    """What the pushes of all builds may use at the same time."""

    def __init__(self) -> None:
        self.documents = trio.CapacityLimiter(_MOST_DOCUMENTS)
        # Conversions wait for bytes of buildkitd, which may wait for a slow registry: one is left for pulls and loads.
        self.conversions = trio.CapacityLimiter(max(1, MOST_CONVERSIONS - 1))


class DoorUploads:
    """The uploads of all builds (contracts.Uploads)."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._room = _Room()
        self._open: dict[str, BuildUpload] = {}

    @property
    def any_open(self) -> bool:
        """Whether a build is under way."""
        return bool(self._open)

    def get(self, identity: str) -> BuildUpload:
        """An upload by its ID. NotFound when it is not open."""
        if (upload := self._open.get(identity)) is None:
            raise NotFound(f"no build with the upload {identity[:80]}")
        return upload

    @asynccontextmanager
    async def open(self) -> AsyncIterator[BuildUpload]:
        """See contracts.Uploads."""
        async with self._store.pins() as pins:
            upload = BuildUpload(secrets.token_hex(16), self._store, pins, self._room)
            self._open[upload.id] = upload
            try:
                yield upload
            finally:
                del self._open[upload.id]
                with trio.CancelScope(shield=True):
                    await upload.cancel_requests()
