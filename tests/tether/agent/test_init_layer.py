"""The layer that Docker's own files are in, and that hides nothing else of the image."""

import os
import stat
from pathlib import Path

import pytest

from tether.agent.init_layer import make_init_layer


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("1", "0")]
    for path in made:
        path.mkdir()
    return made


def _make(tmp_path: Path, layers: list[Path]) -> Path:
    path = tmp_path / "init"
    for _ in range(2):
        make_init_layer(str(path), [str(layer) for layer in layers])
    environment = os.lstat(path / ".dockerenv")
    assert (stat.S_IMODE(environment.st_mode), environment.st_size) == (0o755, 0)
    return path


def test_etc_keeps_the_attributes_of_the_highest_layer(tmp_path: Path, layers: list[Path]) -> None:
    for layer, mode in zip(layers, (0o750, 0o700), strict=True):
        (layer / "etc").mkdir()
        (layer / "etc").chmod(mode)
        os.utime(layer / "etc", (1, mode))
    path = _make(tmp_path, layers)
    found = os.lstat(path / "etc")
    assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o750, 0o750)
    assert os.readlink(path / "etc/mtab") == "/proc/mounts"


def test_an_image_without_etc(tmp_path: Path, layers: list[Path]) -> None:
    path = _make(tmp_path, layers)
    assert stat.S_IMODE(os.lstat(path / "etc").st_mode) == 0o755
    assert os.readlink(path / "etc/mtab") == "/proc/mounts"


def test_an_etc_that_is_a_link_stays(tmp_path: Path, layers: list[Path]) -> None:
    (layers[1] / "etc").symlink_to("usr/etc")
    assert os.listdir(_make(tmp_path, layers)) == [".dockerenv"]
