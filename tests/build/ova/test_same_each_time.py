"""What the appliance and the guest's CD are made of comes out the same each time, whenever it is made."""

import time
from pathlib import Path

import pytest

from build.guest.iso import write_iso
from build.ova import disk
from build.ova.rootfs import compile_python

_SOURCE = """
NAMES = {"one", "two", "three", "four"}
def is_known(name: str) -> bool:
    return name in {"alpha", "beta", "gamma", "delta", "epsilon"}
"""


def _made(folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    parts = {}
    for name in ("kernel", "initrd", "root"):
        parts[name] = folder / name
        parts[name].write_bytes(name.encode() * 5000)
    disk.write(parts["kernel"], parts["initrd"], parts["root"], "quiet", folder, folder / "disk")
    cd = folder / "for the cd"
    cd.mkdir()
    write_iso(b"kernel" * 5000, parts["initrd"], cd, folder / "cd.iso")
    sources = folder / "tree/lib"
    sources.mkdir(parents=True)
    for number in range(20):
        (sources / f"module{number}.py").write_text(_SOURCE * (number + 1))
    compile_python(folder / "tree", [sources])
    compiled = sorted(sources.rglob("*.pyc"))
    assert len(compiled) == 20
    return {path.name: path.read_bytes() for path in (folder / "disk", folder / "cd.iso", *compiled)}


def test_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _made(tmp_path / "first")
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    # FAT counts in twos.
    time.sleep(2)
    second = _made(tmp_path / "second")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
