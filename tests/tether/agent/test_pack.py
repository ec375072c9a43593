"""What is packed is unpacked the same."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from tests.tether.agent.archives import pack_tree, tree_of, unpack_archive

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners are kept")


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tether.agent.unpack.os.sync", lambda: None)
    monkeypatch.chdir(tmp_path)


def test_a_tree_survives_both_ways(tmp_path: Path) -> None:
    source = tmp_path / "from/tree"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("content")
    (source / "sub/empty").write_text("")
    (source / "sub/link").symlink_to("../file")
    os.link(source / "file", source / "hard")
    os.mkfifo(source / "fifo")
    os.chown(source / "file", 1000, 50)
    os.chmod(source / "file", 0o4751)
    os.setxattr(source / "file", "user.mine", b"\xffvalue")
    for path in (source / "sub", source / "file", source / "fifo", source):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    into = tmp_path / "to"
    into.mkdir()
    assert unpack_archive(into, pack_tree(str(source), tmp_path)) == 7
    assert tree_of(into / "tree") == tree_of(source)
    assert os.stat(into / "tree/hard").st_ino == os.stat(into / "tree/file").st_ino
    assert os.getxattr(into / "tree/file", "user.mine") == b"\xffvalue"


def test_a_link_at_the_end_is_packed_or_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/in").write_text("x")
    (tmp_path / "link").symlink_to("real")
    with tarfile.open(fileobj=io.BytesIO(pack_tree(f"{tmp_path}/link", tmp_path))) as archive:
        assert [(member.name, member.linkname) for member in archive] == [("link", "real")]
    with tarfile.open(fileobj=io.BytesIO(pack_tree(f"{tmp_path}/link/", tmp_path))) as archive:
        assert archive.getnames() == ["link", "link/in"]
    with tarfile.open(fileobj=io.BytesIO(pack_tree(f"{tmp_path}/real/.", tmp_path))) as archive:
        assert archive.getnames() == [".", "./in"]


def test_sockets_are_left_out_and_what_is_missing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    os.mknod(tmp_path / "dir/socket", stat.S_IFSOCK | 0o600)
    with tarfile.open(fileobj=io.BytesIO(pack_tree(f"{tmp_path}/dir", tmp_path))) as archive:
        assert archive.getnames() == ["dir"]
    with pytest.raises(FileNotFoundError):
        pack_tree(f"{tmp_path}/missing", tmp_path)
