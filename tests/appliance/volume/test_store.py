"""What volumes are made of."""

from pathlib import Path

import pytest

from appliance.errors import InvalidParameter
from appliance.hypervisor import LocalDisks
from appliance.volume.store import VolumeRecord, VolumeStore


@pytest.mark.parametrize(
    ("options", "shared", "kind"),
    [
        ({}, True, "directory"),
        ({}, False, "disk"),
        ({"size": "1g"}, True, "disk"),
        ({"o": "size=64m"}, True, "disk"),
        ({"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}, False, "tmpfs"),
        ({"type": "none", "device": "/x", "o": "bind"}, True, "bind"),
        ({"type": "nfs", "device": ":/x", "o": "addr=host,rw"}, False, "nfs"),
        ({"type": "nfs4", "device": "host:/x"}, True, "nfs"),
    ],
)
def test_options_decide(tmp_path: Path, options: dict[str, str], shared: bool, kind: str) -> None:
    record = VolumeRecord("vol", 0, "", options=options)
    VolumeStore(tmp_path, LocalDisks(tmp_path), shared=shared).decide_kind(record)
    assert record.kind == kind


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("..", {}),
        ("a/b", {}),
        ("x", {}),
        ("a" * 300, {}),
        ("vol", {"size": "-1"}),
        ("vol", {"size": "1"}),
        ("vol", {"what": "x"}),
        ("vol", {"type": "nfs"}),
        ("vol", {"type": "nfs", "device": "host:/x", "o": "vers=3"}),
        ("vol", {"type": "none", "device": "x", "o": "bind"}),
        ("vol", {"o": "addr=1.2.3.4"}),
    ],
)
def test_invalid_names_and_options(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter):
        VolumeStore(tmp_path, LocalDisks(tmp_path), shared=True).decide_kind(VolumeRecord(name, 0, "", options=options))


async def test_files_without_a_volume_are_removed(tmp_path: Path) -> None:
    store = VolumeStore(tmp_path, LocalDisks(tmp_path), shared=True)
    kept, gone = (VolumeRecord(name, 0, "directory") for name in ("kept", "gone"))
    for record in (kept, gone):
        await store.create(record)
    (store.data(kept) / "file").write_bytes(bytes(10_000))
    store.sweep({"kept"})
    assert [path.name for path in (tmp_path / "volumes").iterdir()] == ["kept"]
    assert await store.used(kept) >= 10_000
