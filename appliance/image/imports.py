"""`docker import`: makes an image of one layer from a tar."""

import time
from collections.abc import AsyncIterable

import msgspec
import trio

from appliance.container.config import ContainerConfig
from appliance.container.times import rfc3339
from appliance.image.config import History, ImageConfig, RootFs
from appliance.image.instructions import apply_instructions
from appliance.image.platform import Platform
from appliance.image.reference import Reference
from appliance.image.store import ImageRecord, ImageStore


async def import_tar(
    store: ImageStore,
    tar: AsyncIterable[bytes],
    reference: Reference | None,
    message: str,
    changes: list[str],
    platform: Platform,
) -> ImageRecord:
    """Make an image of a tar, compressed or not, and tag it if `reference` is given. ProtocolError if it is not a tar."""
    config = await trio.to_thread.run_sync(apply_instructions, ContainerConfig(), changes)
    layer = await store.add_new_layer(tar)
    async with store.pinned([layer.diff_id]):
        created = rfc3339(time.time_ns())
        image = ImageConfig(
            architecture=platform.architecture,
            os=platform.system,
            created=created,
            config=config,
            comment=message,
            history=[History(created=created, comment=message)],
            rootfs=RootFs("layers", [layer.diff_id]),
        )
        record = await store.add_image(msgspec.json.encode(image))
    if reference is not None:
        await store.tag(record, reference, time.time())
    return record
