"""Stat and mounts of the Filesystem service, on a directory in place of the container's root."""

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protos.tether.v1.filesystem_pb2 import Disk, Mount, StatRequest
from tether.agent import files
from tether.agent.files import FilesystemService, make_mount
from tether.rpc.status import Code, RpcError
from tether.system import linux


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "root"
    (made / "dir").mkdir(parents=True)
    (made / "dir/file").write_text("content")
    monkeypatch.setattr(files, "root_of", lambda pid: str(made))
    return made


@pytest.fixture
def service() -> FilesystemService:
    return FilesystemService(None, lambda _: 0, str)  # type: ignore[arg-type]


def test_stat(root: Path, service: FilesystemService) -> None:
    found = service.stat(StatRequest(path="/dir/file"))
    info = os.stat(root / "dir/file")
    assert (found.name, found.size, found.mode, found.mtime_ns) == ("file", 7, info.st_mode, info.st_mtime_ns)
    assert found.link_target == ""
    assert service.stat(StatRequest(path="/")).name == "/"


@pytest.mark.parametrize(
    ("target", "end"),
    [
        ("file", "/dir/file"),
        ("/dir/missing", "/dir/missing"),
        ("../../../../etc", "/etc"),
        ("second", "/dir/file"),
    ],
)
def test_a_link_is_not_followed_but_its_end_is_known(
    root: Path, service: FilesystemService, target: str, end: str
) -> None:
    (root / "dir/second").symlink_to("./file")
    (root / "dir/link").symlink_to(target)
    found = service.stat(StatRequest(path="/dir/link"))
    assert (found.name, found.mode & 0o170000, found.link_target) == ("link", 0o120000, end)


@pytest.mark.parametrize("path", ["/dir/loop", "/dir/link"])
def test_a_loop_of_links(root: Path, service: FilesystemService, path: str) -> None:
    """moby's Stat (daemon/containerfs_linux.go) follows the link, and fails."""
    (root / "dir/loop").symlink_to("loop")
    (root / "dir/link").symlink_to("loop")
    with pytest.raises(RpcError, match=f"evalSymlinksInScope: too many links in {path}") as caught:
        service.stat(StatRequest(path=path))
    assert caught.value.code is Code.ABORTED


def test_a_slash_follows_the_link_and_wants_a_directory(root: Path, service: FilesystemService) -> None:
    (root / "alias").symlink_to("dir")
    assert service.stat(StatRequest(path="/alias/")).mode & 0o170000 == 0o040000
    with pytest.raises(RpcError, match="not a directory") as caught:
        service.stat(StatRequest(path="/dir/file/"))
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("path", ["/missing", "/dir/file/below", "/out/file"])
def test_what_is_missing_in_the_root(root: Path, service: FilesystemService, path: str) -> None:
    (root.parent / "outside").mkdir()
    (root.parent / "outside/file").write_text("outside")
    (root / "out").symlink_to("../outside")
    with pytest.raises(RpcError) as caught:
        service.stat(StatRequest(path=path))
    assert caught.value.code is Code.NOT_FOUND


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr("tether.agent.files.linux.mount", lambda *arguments: calls.append(arguments))
    return calls


async def test_a_plain_mount(tmp_path: Path, mounted: list[tuple[Any, ...]]) -> None:
    target = f"{tmp_path}/new/dir"
    await make_mount(None, Mount(target=target, type="tmpfs", options=["nosuid", "size=1m", "shared"]))  # type: ignore[arg-type]
    assert mounted == [
        ("tmpfs", target, "tmpfs", linux.MS_NOSUID, "size=1m"),
        (None, target, None, linux.MS_SHARED),
    ]
    assert os.path.isdir(target)


async def test_a_bind_mount_takes_its_flags_in_a_second_call(tmp_path: Path, mounted: list[tuple[Any, ...]]) -> None:
    await make_mount(None, Mount(target=str(tmp_path), source="/layer", options=["bind", "ro"]))  # type: ignore[arg-type]
    assert mounted == [
        ("/layer", str(tmp_path), None, linux.MS_BIND | linux.MS_RDONLY, None),
        (None, str(tmp_path), None, linux.MS_BIND | linux.MS_RDONLY | linux.MS_REMOUNT),
    ]


async def test_the_layers_of_another_container_stay_as_they_are(tmp_path: Path, mounted: list[tuple[Any, ...]]) -> None:
    """Docker's own layer of a container is beside its root, not beside its layers."""
    os.makedirs(tmp_path / "layers/0")
    (tmp_path / "init/kept").mkdir(parents=True)
    base = tmp_path / "containers/second"
    request = Mount(kind=Mount.OVERLAY, target=f"{base}/rootfs", lower=[f"{tmp_path}/layers/0"], upper=f"{base}/upper")
    await make_mount(None, request)  # type: ignore[arg-type]
    assert mounted[0][4].startswith("lowerdir=../containers/second/init:0,")
    assert (base / "init/.dockerenv").exists()
    assert os.listdir(tmp_path / "init") == ["kept"]


async def test_layers_are_named_relative_to_each_other(tmp_path: Path, mounted: list[tuple[Any, ...]]) -> None:
    lower = [f"{tmp_path}/layers/1", f"{tmp_path}/layers/0"]
    for path in lower:
        os.makedirs(path)
    before = os.getcwd()
    upper = f"{tmp_path}/upper"
    request = Mount(kind=Mount.OVERLAY, target=f"{tmp_path}/rootfs", lower=lower, upper=upper)
    await make_mount(None, request)  # type: ignore[arg-type]
    ((source, target, kind, flags, data),) = mounted
    assert (source, target, kind, flags) == ("overlay", f"{tmp_path}/rootfs", "overlay", 0)
    assert data == f"lowerdir=../init:1:0,upperdir={upper}/upper,workdir={upper}/work,redirect_dir=off,metacopy=off"
    assert sorted(os.listdir(upper)) == ["upper", "work"]
    assert os.getcwd() == before


async def test_a_disk_may_appear_later(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: list[tuple[Any, ...]]
) -> None:
    nodes: list[str | None] = [None, None, "/dev/sdq"]
    monkeypatch.setattr(files, "_block_device", lambda _: nodes.pop(0))
    request = Mount(kind=Mount.DISK, target=str(tmp_path), type="erofs", options=["ro"], disk=Disk(target=3))
    await make_mount(None, request)  # type: ignore[arg-type]
    assert mounted == [("/dev/sdq", str(tmp_path), "erofs", linux.MS_RDONLY, None)]


async def test_a_disk_that_never_appears(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_block_device", lambda _: None)
    request = Mount(kind=Mount.DISK, target=str(tmp_path), disk=Disk(adapter=1, target=2, lun=3, partition=4))
    with pytest.raises(RpcError, match="no disk at adapter 1 target 2 lun 3 partition 4") as caught:
        await make_mount(None, request)  # type: ignore[arg-type]
    assert caught.value.code is Code.NOT_FOUND
    assert trio.current_time() == pytest.approx(10.0, abs=0.1)


async def test_a_mount_that_the_kernel_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr("tether.agent.files.linux.mount", refuse)
    with pytest.raises(RpcError, match=f"mount zfs:{tmp_path}, data: a=1: no such device"):
        await make_mount(None, Mount(target=str(tmp_path), type="zfs", options=["ro", "a=1"]))  # type: ignore[arg-type]
