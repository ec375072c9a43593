"""Disk usage, with stores in memory."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from appliance.api.usage import UsageRoutes
from appliance.volume.store import DIRECTORY, VolumeRecord
from tests.appliance.api.asking import ask


class _Volumes:
    def all(self) -> list[VolumeRecord]:
        return [VolumeRecord("data", 0, DIRECTORY)]

    def mount_point(self, record: VolumeRecord) -> str:
        return "/volumes/data/_data"

    async def used(self, record: VolumeRecord) -> int:
        return 100

    def users(self, name: str) -> list[str]:
        return ["box"]


class _Images:
    def listed(self) -> list[Any]:
        return []

    async def layers_used(self) -> int:
        return 4096

    def shared_sizes(self) -> dict[str, int]:
        return {}


class _Storage:
    async def sync(self, refs: Iterable[str]) -> None:
        assert list(refs) == []


def _routes() -> Any:
    containers: Any = SimpleNamespace(all=list)
    volumes: Any = _Volumes()
    images: Any = _Images()
    nothing: Any = None
    storage: Any = _Storage()
    return UsageRoutes(containers, storage, nothing, images, volumes).routes()


async def test_everything() -> None:
    status, shape = await ask(_routes(), "GET /system/df")
    assert (status, shape["LayersSize"], shape["Images"], shape["Containers"]) == (200, 4096, [], [])
    assert (shape["BuildCache"], shape["BuilderSize"]) == ([], 0)
    (volume,) = shape["Volumes"]
    assert (volume["Name"], volume["UsageData"]) == ("data", {"Size": 100, "RefCount": 1})


async def test_kinds() -> None:
    assert list((await ask(_routes(), "GET /system/df?type=volume"))[1]) == ["Volumes"]
    assert sorted((await ask(_routes(), "GET /system/df?type=image&type=container"))[1]) == [
        "Containers",
        "Images",
        "LayersSize",
    ]
    assert await ask(_routes(), "GET /system/df?type=x") == (400, {"message": "unknown object type: x"})
