"""Routes of volumes, with a backend in memory."""

from collections.abc import Callable
from typing import Any

import pytest

from appliance.api.volumes import VolumeRoutes
from appliance.errors import NotFound
from appliance.volume.store import DIRECTORY, VolumeRecord
from tests.appliance.api.asking import ask


class _Volumes:
    """A VolumeBackend: `used_by` names the containers of each volume."""

    def __init__(self, *records: VolumeRecord, used_by: dict[str, list[str]] | None = None) -> None:
        self.records = {record.name: record for record in records}
        self.used_by = used_by or {}
        self.created: tuple[Any, ...] = ()

    def all(self) -> list[VolumeRecord]:
        return list(self.records.values())

    def get(self, name: str) -> VolumeRecord:
        if name not in self.records:
            raise NotFound(f"get {name}: no such volume")
        return self.records[name]

    def users(self, name: str) -> list[str]:
        return self.used_by.get(name, [])

    def mount_point(self, record: VolumeRecord) -> str:
        return f"/volumes/{record.name}/_data"

    async def used(self, record: VolumeRecord) -> int:
        return 100

    async def create(
        self, name: str, labels: dict[str, str], options: dict[str, str], *, owner: str = ""
    ) -> VolumeRecord:
        self.created = (name, labels, options)
        return _record(name, labels=labels, options=options)

    async def remove(self, name: str, *, force: bool = False) -> None:
        if not force:
            self.get(name)
        self.records.pop(name, None)

    async def prune(self, wanted: Callable[[VolumeRecord], bool]) -> tuple[list[str], int]:
        gone = [record.name for record in self.all() if not self.users(record.name) and wanted(record)]
        for name in gone:
            del self.records[name]
        return gone, 100 * len(gone)


def _record(name: str, **more: Any) -> VolumeRecord:
    return VolumeRecord(name, 1_700_000_000_123_456_789, DIRECTORY, **more)


async def _names(volumes: _Volumes, query: str) -> list[str]:
    status, body = await ask(VolumeRoutes(volumes).routes(), f"GET /volumes{query}")
    assert status == 200
    return [shape["Name"] for shape in body["Volumes"]]


async def test_the_shape() -> None:
    routes = VolumeRoutes(_Volumes(_record("data", labels={"a": "b"}), _record("f00", anonymous=True))).routes()
    assert await ask(routes, "GET /v1.51/volumes/data") == (
        200,
        {
            "CreatedAt": "2023-11-14T22:13:20Z",
            "Driver": "local",
            "Labels": {"a": "b"},
            "Mountpoint": "/volumes/data/_data",
            "Name": "data",
            "Options": None,
            "Scope": "local",
        },
    )
    assert (await ask(routes, "GET /volumes/f00"))[1]["Labels"] == {"com.docker.volume.anonymous": ""}
    assert await ask(routes, "GET /volumes/none") == (404, {"message": "get none: no such volume"})


async def test_lists_and_filters() -> None:
    volumes = _Volumes(_record("web"), _record("data", labels={"a": "b"}), used_by={"web": ["box"]})
    assert await _names(volumes, "") == ["data", "web"]
    assert await _names(volumes, '?filters={"name":["^we"]}') == ["web"]
    assert await _names(volumes, '?filters={"label":["a=b"]}') == ["data"]
    assert await _names(volumes, '?filters={"label":["a=c"]}') == []
    assert await _names(volumes, '?filters={"dangling":["true"]}') == ["data"]
    assert await _names(volumes, '?filters={"driver":["other"]}') == []
    assert await _names(volumes, '?filters={"dangling":["0"]}') == ["web"]
    for query, message in (
        ('{"x":["y"]}', "invalid filter 'x'"),
        ('{"label!":["y"]}', "invalid filter 'label!'"),
        ('{"dangling":["y"]}', "invalid filter 'dangling=[y]'"),
    ):
        assert await ask(VolumeRoutes(volumes).routes(), f"GET /volumes?filters={query}") == (400, {"message": message})


@pytest.mark.parametrize(
    ("query", "status", "pruned"),
    [
        ("", 200, ["f00"]),
        ('filters={"all":["1"]}', 200, ["data", "f00"]),
        ('filters={"all":["True"]}', 200, ["data", "f00"]),
        ('filters={"all":["F"]}', 200, ["f00"]),
        ('filters={"all":["true"],"label":["a"]}', 200, ["data"]),
        ('filters={"all":["true"],"label!":["a"]}', 200, ["f00"]),
        ('filters={"all":["yes"]}', 400, "invalid filter 'all': strconv.ParseBool: parsing \"yes\": invalid syntax"),
        ('filters={"all":["true","false"]}', 400, "invalid filter 'all=[true false]': only one value is expected"),
        ('filters={"until":["1h"]}', 400, "invalid filter 'until'"),
        ('filters={"dangling":["true"]}', 400, "invalid filter 'dangling'"),
    ],
)
async def test_filters_of_prune(query: str, status: int, pruned: list[str] | str) -> None:
    volumes = _Volumes(
        _record("data", labels={"a": "b"}),
        _record("f00", anonymous=True),
        _record("share", labels={"a": "b"}, options={"type": "nfs"}),
    )
    found = await ask(VolumeRoutes(volumes).routes(), f"POST /volumes/prune?{query}")
    assert (found[0], found[1].get("VolumesDeleted", found[1].get("message"))) == (status, pruned)


async def test_create() -> None:
    volumes = _Volumes()
    body = {"name": "data", "driveropts": {"size": "1g"}, "Labels": {"a": "b"}, "Driver": "local"}
    status, shape = await ask(VolumeRoutes(volumes).routes(), "POST /volumes/create", body)
    assert (status, shape["Name"], volumes.created) == (201, "data", ("data", {"a": "b"}, {"size": "1g"}))
    assert (await ask(VolumeRoutes(volumes).routes(), "POST /volumes/create"))[0] == 201
    assert volumes.created == ("", {}, {})


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ([], 400, "invalid JSON: a volume is an object"),
        ({"Name": 5}, 400, "invalid JSON: Name is not a string"),
        ({"Labels": {"a": 5}}, 400, "invalid JSON: Labels is not "),
        ({"ClusterVolumeSpec": {"Group": "g"}}, 400, "ClusterVolumeSpec is not supported"),
        (
            {"Name": "data", "Driver": "other"},
            404,
            'create data: error looking up volume plugin other: plugin "other" not found',
        ),
    ],
)
async def test_requests_that_are_refused(body: Any, status: int, message: str) -> None:
    found, answer = await ask(VolumeRoutes(_Volumes()).routes(), "POST /volumes/create", body)
    assert found == status
    assert answer["message"].startswith(message)


async def test_remove() -> None:
    routes = VolumeRoutes(_Volumes(_record("data"))).routes()
    assert await ask(routes, "DELETE /volumes/data") == (204, b"")
    assert (await ask(routes, "DELETE /volumes/data"))[0] == 404
    assert await ask(routes, "DELETE /volumes/data?force=1") == (204, b"")


@pytest.mark.parametrize(
    ("line", "removed"),
    [
        ("POST /volumes/prune", ["f00"]),
        ("POST /v1.41/volumes/prune", ["data", "f00"]),
        ('POST /volumes/prune?filters={"all":["true"]}', ["data", "f00"]),
        ('POST /volumes/prune?filters={"all":["1"],"label":["a"]}', ["data"]),
    ],
)
async def test_prune(line: str, removed: list[str]) -> None:
    volumes = _Volumes(
        _record("data", labels={"a": "b"}),
        _record("f00", anonymous=True),
        _record("used", anonymous=True),
        used_by={"used": ["box"]},
    )
    assert await ask(VolumeRoutes(volumes).routes(), line) == (
        200,
        {"VolumesDeleted": removed, "SpaceReclaimed": 100 * len(removed)},
    )
