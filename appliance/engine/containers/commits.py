"""`docker commit`: an image of a container's present files."""

import time

import msgspec
import trio

from appliance.container.commit import Commit
from appliance.container.config import ContainerConfig
from appliance.container.merge import merge_config
from appliance.container.times import rfc3339
from appliance.engine.containers.archive import Archive
from appliance.engine.containers.signals import Signals
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.errors import Conflict, Forbidden, VchError
from appliance.image.config import CommittedConfig, History, RootFs
from appliance.image.instructions import apply_instructions
from appliance.image.layer import Layer
from appliance.image.reference import Reference, tag_reference
from appliance.image.store import ImageRecord, ImageStore

# The digest of an empty tar, for which no layer is added.
_EMPTY = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


class Commits:
    def __init__(
        self,
        registry: ContainerRegistry,
        repository: ContainerRepository,
        archive: Archive,
        images: ImageStore,
        signals: Signals,
    ) -> None:
        self._registry = registry
        self._archive = archive
        self._images = images
        self._repository = repository
        self._signals = signals

    async def commit(self, ref: str, wanted: Commit) -> ImageRecord:
        """Make the image, and tag it if `wanted` has a name. Forbidden when the image must not take over a name that is in use."""
        container = self._registry.get(ref)
        # Errors of the request are found before the container is paused.
        reference = tag_reference(wanted.name) if wanted.name else None
        self._check_name(wanted, reference)
        own = container.record.config if wanted.config is None else wanted.config
        changed = await trio.to_thread.run_sync(apply_instructions, own, wanted.changes)
        merged = merge_config(changed, container.record.config)
        ran = container.running
        try:
            layer = await self._store_layer(container, pause=wanted.pause)
        except VchError:
            if not ran or container.running:
                raise
            # The container ended meanwhile, and its machine too. Its files do not change now, so no pause is needed.
            layer = await self._store_layer(container, pause=False)
        config = self._image_config(container, wanted, merged, layer.diff_id)
        record = await self._images.add_image(msgspec.json.encode(config), container.record.image_id)
        # Again: a commit takes long, and the name may be in use now.
        self._check_name(wanted, reference)
        if reference is not None:
            await self._images.tag(record, reference, time.time())
        self._repository.emit(
            container,
            "commit",
            comment=wanted.comment,
            imageID=record.id,
            imageRef=str(reference) if reference is not None else "",
        )
        return record

    def _check_name(self, wanted: Commit, reference: Reference | None) -> None:
        if reference is None or not wanted.only_new_name:
            return
        name = f"{reference.name}:{reference.tag}"
        if any(name in image.references for image in self._images.all()):
            raise Forbidden(
                f"authorization denied: the image name {reference} is in use, and a scoped client may not change it"
            )

    async def _store_layer(self, container: Container, *, pause: bool) -> Layer:
        """Convert the layer while the guest sends it: nothing that a guest may send without end waits on the disk."""
        paused = False
        if pause and container.running and not container.paused:
            try:
                await self._signals.pause(container.id)
                paused = True
            except Conflict:
                pass  # it has just ended, or another client paused it
        try:
            async with self._archive.layer(container) as archive:
                return await self._images.add_new_layer(archive)
        finally:
            if paused:
                with trio.CancelScope(shield=True):
                    try:
                        await self._signals.unpause(container.id)
                    except VchError:
                        pass  # it was ended or unpaused meanwhile

    def _image_config(
        self, container: Container, wanted: Commit, config: ContainerConfig, diff_id: str
    ) -> CommittedConfig:
        parent = self._images.config(container.record.image_id)
        created = rfc3339(time.time_ns())
        empty = diff_id == _EMPTY
        entry = History(
            created=created,
            created_by=" ".join(config.cmd or ()),
            comment=wanted.comment,
            author=wanted.author or None,
            empty_layer=True if empty else None,
        )
        return CommittedConfig(
            architecture=parent.platform.architecture,
            os=parent.platform.system,
            created=created,
            author=wanted.author,
            comment=wanted.comment,
            container=container.id,
            container_config=container.record.config,
            config=config,
            history=[*(parent.history or ()), entry],
            rootfs=RootFs("layers", [*parent.diff_ids, *([] if empty else [diff_id])]),
        )
