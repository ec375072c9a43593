"""Filling an empty volume with what the image has in its place."""

import os
from pathlib import Path

import pytest

from tether.agent import volumes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners are kept")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/srv/data/sub").mkdir(parents=True)
    (tmp_path / "volume").mkdir()
    return tmp_path / "root"


def _copy(root: Path, destination: str) -> Path:
    volume = root.parent / "volume"
    mask = os.umask(0)
    try:
        volumes.copy_up(str(root), destination, str(volume))
    finally:
        os.umask(mask)
    return volume


def test_all_is_copied_with_its_attributes(root: Path) -> None:
    data = root / "srv/data"
    (data / "sub/file").write_text("content")
    os.link(data / "sub/file", data / "hard")
    (data / "link").symlink_to("/absolute")
    os.mkfifo(data / "fifo")
    os.mknod(data / "device", 0o20600, os.makedev(1, 3))
    os.chown(data, 33, 34)
    os.chmod(data, 0o1770)
    os.chown(data / "sub/file", 1000, 50)
    os.chmod(data / "sub/file", 0o4755)
    os.setxattr(data / "sub/file", "user.mine", b"v")
    os.utime(data / "sub/file", (1_600_000_000, 1_600_000_000))
    volume = _copy(root, "/srv/data")
    assert sorted(os.listdir(volume)) == ["fifo", "hard", "link", "sub"]
    info = os.stat(volume / "sub/file")
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777, info.st_mtime) == (1000, 50, 0o4755, 1_600_000_000)
    assert info.st_ino == os.stat(volume / "hard").st_ino
    assert os.getxattr(volume / "sub/file", "user.mine") == b"v"
    assert os.readlink(volume / "link") == "/absolute"
    top = os.stat(volume)
    assert (top.st_uid, top.st_gid, top.st_mode & 0o7777) == (33, 34, 0o1770)


def test_links_of_the_image_stay_inside_it(root: Path) -> None:
    (root / "alias").symlink_to("/srv/data")
    (root / "srv/data/file").write_text("inside")
    assert (_copy(root, "/alias") / "file").read_text() == "inside"


@pytest.mark.parametrize("destination", ["/missing", "/srv/data/file"])
def test_without_a_directory_nothing_is_copied(root: Path, destination: str) -> None:
    (root / "srv/data/file").write_text("x")
    assert os.listdir(_copy(root, destination)) == []


def test_a_new_file_system_is_empty(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    assert volumes._entries(str(tmp_path)) == []
    (tmp_path / "file").write_text("")
    assert volumes._entries(str(tmp_path)) == ["file"]
