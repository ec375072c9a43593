"""The image store: configs by id, references, and layers as disks. Reads come from memory; a change is on disk when its method returns."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import trio

from appliance.errors import InvalidParameter, NotFound, ProtocolError, Unavailable
from appliance.image.config import ImageConfig, parse_config, parse_config_untrusted
from appliance.image.conversion import BlobSource, Converters
from appliance.image.erofs import Limits, QuotaExceeded
from appliance.image.known_blobs import Blob, KnownBlobs
from appliance.image.layer import Layer, recipe_of, remove_disk
from appliance.image.layer_sizes import LayerSizes
from appliance.image.pins import PinCounts, Pins
from appliance.image.recipe import tar_of
from appliance.image.reference import Reference, familiar_names, parse_reference
from appliance.image.removal import ImageUse, ImageUsers, plan_removal
from appliance.store import Database, room_on


class ImageRecord(msgspec.Struct):
    """One image. `references` are full names with a tag, `digests` full names with a manifest's digest.

    `config` holds the bytes whose SHA-256 is the id. `sizes` are those of the layers, as Docker counts them. `tagged` is a unix time in
    seconds. `parent` is the image from which `docker commit` made this image.
    """

    id: str
    config: bytes
    references: list[str] = []
    digests: list[str] = []
    sizes: list[int] = []
    tagged: float = 0.0
    parent: str = ""


class ImageStore:
    """The images below `root`. `layers/HEX.erofs` is a layer's disk; partial files have other names, and the next start removes them.

    `on_layer_gone` gets the path of each disk that was removed. `admit` raises Unavailable when the quota has no room for that many bytes.
    `room` returns the bytes that the quota has left, None without a quota: a layer that needs more does not get on the disk.
    """

    def __init__(
        self,
        database: Database,
        root: Path,
        converters: Converters,
        on_layer_gone: Callable[[Path], None] = lambda _: None,
        admit: Callable[[int], Awaitable[None]] | None = None,
        room: Callable[[], Awaitable[int | None]] | None = None,
    ) -> None:
        self._admit = admit
        self._room = room
        self._admission = trio.Lock()
        self._adding = trio.Lock()
        self._database = database
        self._converters = converters
        self._on_layer_gone = on_layer_gone
        self._layers = root / "layers"
        self._layers.mkdir(parents=True, exist_ok=True)
        self._images: dict[str, ImageRecord] = {}
        self._configs: dict[str, ImageConfig] = {}
        self._locks: dict[str, trio.Lock] = {}
        self._pins = PinCounts()
        for partial in self._layers.glob("*.part*"):
            partial.unlink()
        self._blobs = KnownBlobs(database)
        self._sizes = LayerSizes(database)
        for key, value in database.load("image").items():
            record = msgspec.json.decode(value, type=ImageRecord)
            self._images[key] = record
            self._configs[key] = parse_config(record.config)

    # -- reading --------------------------------------------------------------------------------------------------

    def all(self) -> list[ImageRecord]:
        return list(self._images.values())

    def listed(self) -> list[ImageRecord]:
        """All images but those without a name from which another image was committed: `docker images` hides them."""
        parents = {record.parent for record in self._images.values()}
        return [one for one in self._images.values() if one.references or one.digests or one.id not in parents]

    def ancestors(self, record: ImageRecord) -> Iterator[ImageRecord]:
        """The images from which an image was committed, as far as they are here, the nearest first."""
        while (parent := self._images.get(record.parent)) is not None:
            yield parent
            record = parent

    def get(self, text: str) -> ImageRecord:
        """Find an image by id, id prefix, name[:tag] or name@digest. NotFound with Docker's text."""
        plain = text.removeprefix("sha256:")
        if re.fullmatch(r"[a-f0-9]{64}", plain):
            if f"sha256:{plain}" in self._images:
                return self._images[f"sha256:{plain}"]
            raise NotFound(f"No such image: {text}")
        try:
            reference = parse_reference(text).with_default_tag()
        except InvalidParameter:
            if text.startswith("sha256:") or re.fullmatch(r"[a-f0-9]+", text):
                return self._by_prefix(text, plain)
            raise
        name = f"{reference.name}@{reference.digest}" if reference.digest else f"{reference.name}:{reference.tag}"
        for record in self._images.values():
            if name in (record.digests if reference.digest else record.references):
                return record
        if re.fullmatch(r"[a-f0-9]{4,64}", plain):
            return self._by_prefix(str(reference) if ":" in text else text, plain)
        raise NotFound(f"No such image: {reference}")

    def _by_prefix(self, text: str, prefix: str) -> ImageRecord:
        found = [record for key, record in self._images.items() if key[7:].startswith(prefix)]
        if len(found) == 1:
            return found[0]
        raise NotFound(f"No such image: {text if ':' in text else text + ':latest'}")

    def id_of(self, reference: Reference) -> str:
        """The id of the image that has this tag, "" for none."""
        name = f"{reference.name}:{reference.tag}"
        return next((record.id for record in self._images.values() if name in record.references), "")

    def has(self, record: ImageRecord) -> bool:
        """Whether the image was not removed since the caller got the record."""
        return self._images.get(record.id) is record

    def config(self, image_id: str) -> ImageConfig:
        return self._configs[image_id]

    def layer_paths(self, image_id: str) -> list[Path]:
        """The disks of an image, lowest first."""
        return [self.layer_path(diff_id) for diff_id in self._configs[image_id].diff_ids]

    def layer_path(self, diff_id: str) -> Path:
        return self._layers / f"{diff_id.removeprefix('sha256:')}.erofs"

    def size(self, record: ImageRecord) -> int:
        """Bytes of an image's files, as Docker counts them."""
        return sum(record.sizes)

    # -- writing --------------------------------------------------------------------------------------------------

    def _layer_lock(self, diff_id: str) -> trio.Lock:
        return self._locks.setdefault(diff_id, trio.Lock())

    async def add_layer(self, diff_id: str, source: BlobSource, blob: Blob | None = None) -> Layer | None:
        """Convert a blob into a layer's disk. Returns None, and does not read the source, if the store has the layer.

        ProtocolError when the bytes do not have the digest of `blob`, or the tar in them does not have the digest `diff_id`.
        """
        async with self._layer_lock(diff_id):
            target = self.layer_path(diff_id)
            if target.exists():
                return None
            layer, partial = await self._convert(source)
            try:
                if blob is not None and layer.digest != blob.digest:
                    raise ProtocolError(f"filesystem layer verification failed for digest {blob.digest}")
                if layer.diff_id != diff_id:
                    raise ProtocolError(f"layer has the diff id {layer.diff_id}, its config says {diff_id}")
                await self._keep_layer(layer, partial)
            finally:
                remove_disk(partial)
            if blob is not None:
                await self.learn(diff_id, blob)
            return layer

    async def add_new_layer(self, source: BlobSource, pins: Pins | None = None) -> Layer:
        """Convert a tar into a layer's disk; the digest is not known before. ProtocolError if the source is not a tar.

        `pins` keep the layer from the moment that it is there.
        """
        layer, partial = await self._convert(source)
        try:
            async with self._layer_lock(layer.diff_id):
                if pins is not None:
                    pins.add(layer.diff_id)
                if not self.layer_path(layer.diff_id).exists():
                    await self._keep_layer(layer, partial)
        finally:
            remove_disk(partial)
        return layer

    async def _convert(self, source: BlobSource) -> tuple[Layer, Path]:
        """Write a disk and its recipe under temporary names. Unavailable when the file system is full."""
        partial = self._layers / f"{os.urandom(8).hex()}.part"
        room = await self._room() if self._room is not None else None
        limits = Limits() if room is None else Limits(content=room)
        limits = replace(limits, written=room_on(self._layers))
        try:
            return await self._converters.convert(source, partial, recipe_of(partial), limits), partial
        except QuotaExceeded as error:
            # The quota's own words, with its present figures.
            if self._admit is not None:
                await self._admit(error.content)
            raise Unavailable("storage quota exceeded") from error
        except OSError as error:
            raise Unavailable(f"failed to register layer: {error.strerror or error}") from error

    async def _keep_layer(self, layer: Layer, partial: Path) -> None:
        target = self.layer_path(layer.diff_id)
        async with self._admission:
            if self._admit is not None:
                await self._admit(layer.size)
            await self._sizes.learn(layer)
        # The disk gets its name last: a layer whose disk exists is complete.
        for source, kept in ((recipe_of(partial), recipe_of(target)), (partial, target)):
            os.chmod(source, 0o400)
            source.rename(kept)

    def tar_of(self, diff_id: str, start: int = 0) -> Iterator[bytes]:
        """The original tar of a layer, byte for byte, in pieces, from the byte `start` on. Blocking."""
        return tar_of(recipe_of(self.layer_path(diff_id)), self.layer_path(diff_id), start)

    def tar_size(self, diff_id: str) -> int:
        """Bytes of a layer's tar. Blocking, see LayerSizes."""
        return self._sizes.tar(diff_id, recipe_of(self.layer_path(diff_id)))

    def blobs_of(self, diff_id: str) -> list[Blob]:
        """The blobs that registries are known to have for this layer, the latest first."""
        return self._blobs.of(diff_id)

    def find_blob(self, digest: str) -> tuple[str, Blob | None] | None:
        """The layer with this digest, by its diff ID: of its tar (no blob), or of a compressed blob of it. None if the store lacks it."""
        if self.has_layer(digest):
            return digest, None
        found = self._blobs.find(digest)
        return found if found is not None and self.has_layer(found[0]) else None

    async def learn(self, diff_id: str, blob: Blob) -> None:
        """Remember that a registry has a layer as this blob."""
        await self._blobs.learn(diff_id, blob)

    def layer_size(self, diff_id: str) -> int:
        """Bytes of a layer's files, as Docker counts them; 0 for an unknown layer."""
        return self._sizes.content(diff_id)

    async def layers_used(self) -> int:
        """Bytes of all layers in the store, including those of images that are still being pulled."""
        return self._sizes.total

    def shared_sizes(self) -> dict[str, int]:
        """For each image id, the bytes in layers that another image has, too."""
        owners = Counter(diff_id for config in self._configs.values() for diff_id in set(config.diff_ids))
        return {
            key: sum(self.layer_size(diff_id) for diff_id in set(config.diff_ids) if owners[diff_id] > 1)
            for key, config in self._configs.items()
        }

    def has_layer(self, diff_id: str) -> bool:
        return self.layer_path(diff_id).exists()

    async def add_image(self, config: bytes, parent: str = "") -> ImageRecord:
        """Record an image whose layers are all in the store, if it is new. Name it at once: a prune takes images without a name."""
        image_id = f"sha256:{hashlib.sha256(config).hexdigest()}"
        if image_id not in self._images:
            parsed = await trio.to_thread.run_sync(parse_config_untrusted, config)
            missing = [diff_id for diff_id in parsed.diff_ids if not self.has_layer(diff_id)]
            if missing:
                raise ProtocolError(f"the image's layer {missing[0]} is missing")
            sizes = [self.layer_size(diff_id) for diff_id in parsed.diff_ids]
            record = ImageRecord(image_id, config, sizes=sizes, parent=parent)
            # Two builds may make one image at the same time: the second keeps the record of the first, which may have a name by now.
            async with self._adding:
                if image_id not in self._images:
                    await self._save(record)
                    self._images[image_id] = record
                    self._configs[image_id] = parsed
        return self._images[image_id]

    async def _save(self, *records: ImageRecord) -> None:
        for change in [self._database.queue("image", one.id, msgspec.json.encode(one)) for one in records]:
            await change.wait()

    async def tag(self, record: ImageRecord, reference: Reference, now: float, digest: str = "") -> bool:
        """Point name:tag (and name@digest) at the image, and take the tag from another image. False if nothing changed.

        NotFound when the image was removed meanwhile.
        """
        if not self.has(record):
            raise NotFound(f"No such image: {record.id}")
        # All of it changes in one turn: from then on no prune takes the image for one without a name.
        changed, others = False, list[ImageRecord]()
        if reference.tag:
            name = f"{reference.name}:{reference.tag}"
            others = [other for other in self._images.values() if other is not record and name in other.references]
            for other in others:
                other.references.remove(name)
            if name not in record.references:
                record.references.append(name)
                changed = True
        if digest and f"{reference.name}@{digest}" not in record.digests:
            record.digests.append(f"{reference.name}@{digest}")
            changed = True
        if changed:
            record.tagged = now
        await self._save(*others, *([record] if changed else []))
        return changed

    async def remove(
        self, text: str, user_of: ImageUsers, *, force: bool, prune_parents: bool = True
    ) -> list[dict[str, str]]:
        """`docker rmi`: untag an image, and delete it when no name is left. Conflict with Docker's text.

        Returns {"Untagged": name} and {"Deleted": id} in order, also for the untagged images from which the deleted image was committed.
        """
        record = self.get(text)
        names = [*record.references, *record.digests]
        removal = plan_removal(text, record.id, names, self._use(record, user_of), force=force)
        record.references = [name for name in record.references if name not in removal.names]
        record.digests = [name for name in record.digests if name not in removal.names]
        done = [{"Untagged": name} for name in familiar_names(removal.names)]
        if not removal.deletes:
            await self._save(record)
            return done
        done += await self._delete(record)
        parent = self._images.get(record.parent)
        while prune_parents and parent is not None and self._is_unused(parent, user_of):
            done += await self._delete(parent)
            parent = self._images.get(parent.parent)
        return done

    def _use(self, record: ImageRecord, user_of: ImageUsers) -> ImageUse:
        running, stopped = (user_of(record.id, running=running) or "" for running in (True, False))
        return ImageUse(running, stopped, any(other.parent == record.id for other in self._images.values()))

    def _is_unused(self, record: ImageRecord, user_of: ImageUsers) -> bool:
        use = self._use(record, user_of)
        return not (record.references or record.digests or use.container or use.has_children)

    async def _delete(self, record: ImageRecord) -> list[dict[str, str]]:
        # From memory first: a build that makes the image meanwhile adds it again.
        del self._images[record.id]
        diff_ids = list(dict.fromkeys(reversed(self._configs.pop(record.id).diff_ids)))
        async with self.pinned(diff_ids):
            await self._database.remove("image", record.id)
        gone = [diff_id for diff_id in diff_ids if not self.has_layer(diff_id)]
        return [{"Deleted": key} for key in (record.id, *gone)]

    @asynccontextmanager
    async def pinned(self, diff_ids: Iterable[str]) -> AsyncIterator[None]:
        """Within the block, keep layers from which the caller makes an image. Afterwards, remove those that no image has."""
        async with self.pins() as pins:
            for diff_id in diff_ids:
                pins.add(diff_id)
            yield

    @asynccontextmanager
    async def pins(self) -> AsyncIterator[Pins]:
        """As `pinned`, for layers that become known one after the other."""
        pins = Pins(self._pins)
        try:
            yield pins
        finally:
            released = pins.release()
            with trio.CancelScope(shield=True):
                await self._collect(released)

    async def _collect(self, diff_ids: Iterable[str]) -> list[str]:
        """Remove those of the layers that no image has and no caller has pinned. Return the removed layers."""
        gone: list[str] = []
        wanted = self._wanted()
        for diff_id in dict.fromkeys(diff_ids):
            # Each layer is judged when its turn comes: while the database wrote, another task may have pinned it.
            if diff_id in wanted or self._pins.holds(diff_id) or not self.has_layer(diff_id):
                continue
            remove_disk(self.layer_path(diff_id))
            self._on_layer_gone(self.layer_path(diff_id))
            self._blobs.forget(diff_id)
            self._locks.pop(diff_id, None)
            gone.append(diff_id)
            await self._sizes.forget(diff_id)
            wanted = self._wanted()
        return gone

    def _wanted(self) -> set[str]:
        """The layers of all images."""
        return {diff_id for config in self._configs.values() for diff_id in config.diff_ids}

    def stacks(self) -> list[list[Path]]:
        """The disks of each image, lowest layer first."""
        return [self.layer_paths(image_id) for image_id in self._configs]

    def layers(self) -> list[Path]:
        """The disks of all layers."""
        return list(self._layers.glob("*.erofs"))

    async def sweep(self) -> None:
        """Remove layers without an image: a pull that was killed has left them."""
        await self._collect(f"sha256:{path.stem}" for path in self.layers())
