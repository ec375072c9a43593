"""`docker import`: an image of one layer, whose tar anybody made."""

import json
import time

from appliance.container.times import rfc3339
from appliance.image.instructions import apply_instructions
from appliance.image.layer import Source
from appliance.image.platform import Platform
from appliance.image.reference import Reference
from appliance.image.store import ImageRecord, ImageStore


async def import_tar(
    store: ImageStore, source: Source, reference: Reference | None, message: str, changes: list[str], platform: Platform
) -> ImageRecord:
    """Make the image of a tar, compressed or not, and tag it if it is to have a name. ProtocolError for what is no tar."""
    config = apply_instructions({}, changes)
    layer = await store.add_new_layer(source)
    async with store.pinned([layer.diff_id]):
        created = rfc3339(time.time_ns())
        raw = {
            "architecture": platform.architecture,
            "os": platform.system,
            "created": created,
            "config": config,
            "comment": message,
            "history": [{"created": created, "comment": message}],
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        }
        record = await store.add_image(json.dumps(raw).encode())
    if reference is not None:
        await store.tag(record, reference, time.time())
    return record
