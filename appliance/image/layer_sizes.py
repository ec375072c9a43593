"""Sizes of the layers in the store: of their files, and of their tars. Stored as rows of the kinds `layer` and `tar`."""

from pathlib import Path

import msgspec

from appliance.image.layer import Layer
from appliance.image.recipe import tar_size_of
from appliance.store import Database


class LayerSizes:
    """Bytes by diff ID. A layer that version 0.1 stored has no row `tar`: the sum is then made of its recipe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._content = _numbers(database, "layer")
        self._tars = _numbers(database, "tar")

    @property
    def total(self) -> int:
        """Bytes of the files of all layers."""
        return sum(self._content.values())

    def content(self, diff_id: str) -> int:
        """Bytes of a layer's files, as Docker counts them; 0 for an unknown layer."""
        return self._content.get(diff_id, 0)

    def tar(self, diff_id: str, recipe: Path) -> int:
        """Bytes of a layer's tar. Blocking if there is no row: it reads the recipe, once. ProtocolError when the recipe is damaged."""
        if diff_id not in self._tars:
            self._tars[diff_id] = tar_size_of(recipe)
        return self._tars[diff_id]

    async def learn(self, layer: Layer) -> None:
        """Remember the sizes of a new layer; return when they are on disk."""
        self._database.queue("tar", layer.diff_id, msgspec.json.encode(layer.tar_size))
        await self._database.put("layer", layer.diff_id, msgspec.json.encode(layer.size))
        self._content[layer.diff_id] = layer.size
        self._tars[layer.diff_id] = layer.tar_size

    async def forget(self, diff_id: str) -> None:
        """Forget a layer that is removed; return when that is on disk."""
        self._content.pop(diff_id, None)
        self._tars.pop(diff_id, None)
        self._database.queue("tar", diff_id, None)
        await self._database.remove("layer", diff_id)


def _numbers(database: Database, kind: str) -> dict[str, int]:
    return {key: int(msgspec.json.decode(value)) for key, value in database.load(kind).items()}
