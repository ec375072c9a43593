"""Fixtures of all rooms of the appliance."""

import io
from pathlib import Path

import pytest
import trio

from appliance.image.conversion import BlobSource, Converters
from appliance.image.erofs import NO_LIMITS, Limits
from appliance.image.layer import FilePart, Layer, convert_untrusted


async def _convert_here(
    _converters: Converters, blob: BlobSource, disk: Path, recipe: Path, limits: Limits = NO_LIMITS
) -> Layer:
    source = blob if isinstance(blob, FilePart) else io.BytesIO(b"".join([piece async for piece in blob])).read
    return await trio.to_thread.run_sync(convert_untrusted, source, disk, recipe, limits)


@pytest.fixture(autouse=True)
def _conversion_without_a_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of the image room a layer is converted in this process: each daemon of a test would start a Python for it."""
    if "image" not in request.path.parts:
        monkeypatch.setattr(Converters, "convert", _convert_here)
