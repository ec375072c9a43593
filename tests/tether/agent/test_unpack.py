"""Archives are unpacked as moby does it, and hostile ones stay inside the directory."""

import os
import tarfile
from pathlib import Path

import pytest

from tests.tether.agent.archives import make_tar, member, tree_of, unpack_archive
from tether.rpc.status import Code, RpcError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners are kept")


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tether.agent.unpack.os.sync", lambda: None)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "hostile",
    [
        member("../out"),
        member("a/../../out"),
        member("link", tarfile.LNKTYPE, linkname="../secret"),
        member("/../../out"),
    ],
)
def test_nothing_leaves_the_directory(tmp_path: Path, hostile: tarfile.TarInfo) -> None:
    (tmp_path / "secret").write_text("secret")
    into = tmp_path / "to"
    into.mkdir()
    before = tree_of(tmp_path)
    with pytest.raises(RpcError) as caught:
        unpack_archive(into, make_tar(hostile))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert tree_of(tmp_path) == before


def test_members_replace_what_is_there(tmp_path: Path) -> None:
    into = tmp_path / "to"
    (into / "dir/deep").mkdir(parents=True)
    (into / "file").write_text("old")
    assert (
        unpack_archive(into, make_tar(member("dir"), member("file", tarfile.DIRTYPE, mode=0o755), content=b"new")) == 2
    )
    assert (into / "dir").read_text() == "new"
    assert (into / "file").is_dir()


def test_careful_unpacking_refuses_to_replace_directories(tmp_path: Path) -> None:
    into = tmp_path / "to"
    (into / "dir").mkdir(parents=True)
    (into / "file").write_text("old")
    with pytest.raises(RpcError, match='cannot overwrite directory "dir" with non-directory "dir"'):
        unpack_archive(into, make_tar(member("dir")), careful=True)
    with pytest.raises(RpcError, match='cannot overwrite non-directory "file" with directory "file"'):
        unpack_archive(into, make_tar(member("file", tarfile.DIRTYPE)), careful=True)


def test_an_owner_is_given_to_all(tmp_path: Path) -> None:
    into = tmp_path / "to"
    into.mkdir()
    unpack_archive(into, make_tar(member("file", uid=7, gid=8)), owner="1234:56")
    assert (os.stat(into / "file").st_uid, os.stat(into / "file").st_gid) == (1234, 56)
    with pytest.raises(RpcError, match="no-such-user"):
        unpack_archive(into, make_tar(member("file")), owner="no-such-user")


def test_a_target_that_is_not_a_directory_and_a_body_that_is_not_an_archive(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RpcError, match="extraction point is not a directory"):
        unpack_archive(tmp_path / "file", b"")
    with pytest.raises(RpcError, match="Error processing tar file"):
        unpack_archive(tmp_path, b"x" * 1024)
    with pytest.raises(RpcError, match="unexpected EOF"):
        unpack_archive(tmp_path, make_tar(member("cut"), content=bytes(4096))[:1536])
    assert unpack_archive(tmp_path, b"") == 0
