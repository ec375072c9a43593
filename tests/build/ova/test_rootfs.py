"""The root file system of the appliance, as far as it needs neither packages nor the rights of root."""

from pathlib import Path

import pytest

from build.ova.rootfs import compile_python, our_sources, packages
from tests.build.reproducible import different_files

_SOURCE = """
NAMES = {"one", "two", "three", "four"}
def is_known(name: str) -> bool:
    return name in {"alpha", "beta", "gamma", "delta", "epsilon"}
"""


def _compile(folder: Path) -> dict[str, bytes]:
    sources = folder / "tree/lib"
    sources.mkdir(parents=True)
    for number in range(20):
        (sources / f"module{number}.py").write_text(_SOURCE * (number + 1))
    # A template is not Python, and keeps nothing from being compiled.
    (sources / "template.py").write_text("{{ nothing }")
    compile_python(folder / "tree", [sources])
    return {path.name: path.read_bytes() for path in sources.rglob("*.pyc")}


def test_bytecode_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert different_files(_compile, tmp_path, monkeypatch) == []
    assert len(list((tmp_path / "first").rglob("*.pyc"))) == 20


def test_bytecode_is_never_checked_against_the_source(tmp_path: Path) -> None:
    for data in _compile(tmp_path).values():
        # The flags of PEP 552: a hash, unchecked.
        assert data[4:8] == b"\x01\0\0\0"


def test_what_goes_in() -> None:
    names = [path.name for path in our_sources()]
    assert "FIELDS.md" in names
    assert "descriptor.py" not in names
    assert "linux-image-cloud-amd64" in packages()
    assert not any(name.startswith("#") for name in packages())
