"""Archives in both directions: what is packed is unpacked the same, and hostile archives stay inside."""

import io
import os
import stat
import tarfile
import threading
from pathlib import Path

import pytest

from tether.agent.container_path import ContainerPath
from tether.agent.pack import pack
from tether.agent.unpack import unpack
from tether.rpc.status import Code, RpcError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners are kept")


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tether.agent.unpack.os.sync", lambda: None)
    monkeypatch.chdir(tmp_path)


def _pipe_from(data: bytes) -> int:
    reading, writing = os.pipe()

    def write() -> None:
        try:
            with open(writing, "wb") as file:
                file.write(data)
        except BrokenPipeError:
            pass

    threading.Thread(target=write, daemon=True).start()
    return reading


def _unpack(into: Path, data: bytes, *, careful: bool = False, owner: str = "") -> int:
    source = _pipe_from(data)
    mask = os.umask(0)
    try:
        return unpack(str(into), source, no_overwrite_dir_non_dir=careful, owner=owner)
    finally:
        os.umask(mask)
        os.close(source)


def _pack(path: str, tmp_path: Path) -> bytes:
    out = os.open(tmp_path / "archive", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        pack(path, out)
    finally:
        os.close(out)
    return (tmp_path / "archive").read_bytes()


def _tar(*members: tarfile.TarInfo, content: bytes = b"") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def _tree(root: Path) -> dict[str, tuple[int, int, int, int, str]]:
    """{path: (mode, uid, gid, mtime, content or target)}."""
    found = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        what = ""
        if path.is_symlink():
            what = os.readlink(path)
        elif path.is_file():
            what = path.read_text()
        found[str(path.relative_to(root))] = (info.st_mode, info.st_uid, info.st_gid, int(info.st_mtime), what)
    return found


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
    assert _unpack(into, _pack(str(source), tmp_path)) == 7
    assert _tree(into / "tree") == _tree(source)
    assert os.stat(into / "tree/hard").st_ino == os.stat(into / "tree/file").st_ino
    assert os.getxattr(into / "tree/file", "user.mine") == b"\xffvalue"


def test_a_link_at_the_end_is_packed_or_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/in").write_text("x")
    (tmp_path / "link").symlink_to("real")
    with tarfile.open(fileobj=io.BytesIO(_pack(f"{tmp_path}/link", tmp_path))) as archive:
        assert [(member.name, member.linkname) for member in archive] == [("link", "real")]
    with tarfile.open(fileobj=io.BytesIO(_pack(f"{tmp_path}/link/", tmp_path))) as archive:
        assert archive.getnames() == ["link", "link/in"]
    with tarfile.open(fileobj=io.BytesIO(_pack(f"{tmp_path}/real/.", tmp_path))) as archive:
        assert archive.getnames() == [".", "./in"]


def test_sockets_are_left_out_and_what_is_missing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    os.mknod(tmp_path / "dir/socket", stat.S_IFSOCK | 0o600)
    with tarfile.open(fileobj=io.BytesIO(_pack(f"{tmp_path}/dir", tmp_path))) as archive:
        assert archive.getnames() == ["dir"]
    with pytest.raises(FileNotFoundError):
        _pack(f"{tmp_path}/missing", tmp_path)


@pytest.mark.parametrize(
    ("text", "path", "follows", "name"),
    [
        ("/a/b", "/a/b", False, "b"),
        ("a//b/", "/a/b", True, "b"),
        ("/a/.", "/a", True, "."),
        ("/", "/", True, "/"),
        ("", "/", True, "/"),
        ("/../../x", "/x", False, "x"),
    ],
)
def test_paths(text: str, path: str, follows: bool, name: str) -> None:
    assert ContainerPath.of(text) == ContainerPath(path, follows, name)


@pytest.mark.parametrize(
    "member",
    [
        _member("../out"),
        _member("a/../../out"),
        _member("link", tarfile.LNKTYPE, linkname="../secret"),
        _member("/../../out"),
    ],
)
def test_nothing_leaves_the_directory(tmp_path: Path, member: tarfile.TarInfo) -> None:
    (tmp_path / "secret").write_text("secret")
    into = tmp_path / "to"
    into.mkdir()
    before = _tree(tmp_path)
    with pytest.raises(RpcError) as caught:
        _unpack(into, _tar(member))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert _tree(tmp_path) == before


def test_members_replace_what_is_there(tmp_path: Path) -> None:
    into = tmp_path / "to"
    (into / "dir/deep").mkdir(parents=True)
    (into / "file").write_text("old")
    assert _unpack(into, _tar(_member("dir"), _member("file", tarfile.DIRTYPE, mode=0o755), content=b"new")) == 2
    assert (into / "dir").read_text() == "new"
    assert (into / "file").is_dir()


def test_careful_unpacking_refuses_to_replace_directories(tmp_path: Path) -> None:
    into = tmp_path / "to"
    (into / "dir").mkdir(parents=True)
    (into / "file").write_text("old")
    with pytest.raises(RpcError, match='cannot overwrite directory "dir" with non-directory "dir"'):
        _unpack(into, _tar(_member("dir")), careful=True)
    with pytest.raises(RpcError, match='cannot overwrite non-directory "file" with directory "file"'):
        _unpack(into, _tar(_member("file", tarfile.DIRTYPE)), careful=True)


def test_an_owner_is_given_to_all(tmp_path: Path) -> None:
    into = tmp_path / "to"
    into.mkdir()
    _unpack(into, _tar(_member("file", uid=7, gid=8)), owner="1234:56")
    assert (os.stat(into / "file").st_uid, os.stat(into / "file").st_gid) == (1234, 56)
    with pytest.raises(RpcError, match="no-such-user"):
        _unpack(into, _tar(_member("file")), owner="no-such-user")


def test_what_is_no_directory_and_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RpcError, match="extraction point is not a directory"):
        _unpack(tmp_path / "file", b"")
    with pytest.raises(RpcError, match="Error processing tar file"):
        _unpack(tmp_path, b"x" * 1024)
    with pytest.raises(RpcError, match="unexpected EOF"):
        _unpack(tmp_path, _tar(_member("cut"), content=bytes(4096))[:1536])
    assert _unpack(tmp_path, b"") == 0
