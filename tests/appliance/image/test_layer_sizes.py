"""Sizes of layers: kept over a restart, gone with the layer."""

from pathlib import Path

from appliance.image.layer import Layer
from appliance.image.layer_sizes import LayerSizes
from appliance.store import Database


async def test_sizes_are_stored_and_forgotten(tmp_path: Path) -> None:
    layer = Layer("sha256:b", "sha256:d", 10, 4096, 2048)
    async with Database.open(tmp_path / "state.db") as database:
        await LayerSizes(database).learn(layer)
        sizes = LayerSizes(database)
        # Nothing is read: there is no such file.
        assert (sizes.content("sha256:d"), sizes.tar("sha256:d", tmp_path / "none"), sizes.total) == (10, 2048, 10)
        assert sizes.content("sha256:other") == 0
        await sizes.forget("sha256:d")
        assert sizes.total == 0
        assert LayerSizes(database).total == 0
        assert database.load("tar") == {}
