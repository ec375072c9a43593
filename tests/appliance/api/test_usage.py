"""Disk usage, with stores in memory."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from appliance.api.usage import UsageRoutes
from appliance.buildkit.usage import CacheRecord
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


class _Cache:
    async def cache_records(self) -> list[CacheRecord]:
        full = CacheRecord("b", "regular", "mount / from exec", 5, 1, 2, 3, True, True, False, ("a",))
        return [CacheRecord("a", "internal", "", 4, 0, 0, 0, False, False, False), full]


def _routes(*, cache: bool = False) -> Any:
    containers: Any = SimpleNamespace(all=list)
    volumes: Any = _Volumes()
    images: Any = _Images()
    nothing: Any = None
    storage: Any = _Storage()
    return UsageRoutes(containers, storage, nothing, images, volumes, _Cache() if cache else None).routes()


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


async def test_the_build_cache() -> None:
    line = "/system/df?type=build-cache"
    _, shape = await ask(_routes(cache=True), f"GET /v1.51{line}")
    assert shape == {
        "BuildCache": [
            {
                "ID": "a",
                "Type": "internal",
                "Description": "",
                "InUse": False,
                "Shared": False,
                "Size": 4,
                "CreatedAt": "0001-01-01T00:00:00Z",
                "LastUsedAt": None,
                "UsageCount": 0,
            },
            {
                "ID": "b",
                "Type": "regular",
                "Description": "mount / from exec",
                "InUse": True,
                "Shared": True,
                "Size": 5,
                "CreatedAt": "1970-01-01T00:00:00.000000001Z",
                "LastUsedAt": "1970-01-01T00:00:00.000000002Z",
                "UsageCount": 3,
                # moby's JSON tag has a space.
                " Parents": ["a"],
            },
        ],
        "BuilderSize": 0,
    }
    _, old = await ask(_routes(cache=True), f"GET /v1.41{line}")
    assert old["BuilderSize"] == 9
    assert " Parents" not in old["BuildCache"][1]
