"""Mounts of a spec: options by table, paths confined to the root, and a real root in a mount namespace of the test's own."""

import os
import stat
from pathlib import Path

import pytest

from tests.tether.isolated import run_isolated
from tether.launch import oci
from tether.launch.rootfs import enter_root, hide_paths, make_parents, parse_options
from tether.launch.spec import Spec
from tether.system import linux


@pytest.mark.parametrize(
    ("options", "parsed"),
    [
        ((), (0, 0, "")),
        (("ro", "nosuid", "size=64m", "mode=755"), (linux.MS_RDONLY | linux.MS_NOSUID, 0, "size=64m,mode=755")),
        (("ro", "rw", "noexec", "exec"), (0, 0, "")),
        (("rbind", "rprivate"), (linux.MS_BIND | linux.MS_REC, linux.MS_PRIVATE | linux.MS_REC, "")),
        (("bind", "shared"), (linux.MS_BIND, linux.MS_SHARED, "")),
    ],
)
def test_options(options: tuple[str, ...], parsed: tuple[int, int, str]) -> None:
    assert parse_options(options) == parsed


@pytest.mark.parametrize(
    ("path", "is_file"), [("/a/b", False), ("/a/b/file", True), ("/link/x", False), ("/../up", False)]
)
def test_missing_parents_are_made_inside_the_root(tmp_path: Path, path: str, is_file: bool) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to("/target")
    (root / "target").mkdir()
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        made = make_parents(fd, path, is_file=is_file)
        where = os.readlink(f"/proc/self/fd/{made}")
        os.close(made)
    finally:
        os.close(fd)
    assert where.startswith(f"{root}/")
    assert os.path.isfile(where) == is_file
    assert os.listdir(tmp_path) == ["root"]


def _enter(directory: str) -> None:
    """Runs in a mount namespace."""
    root = Path(directory, "root")
    Path(directory, "file").write_text("bound")
    for name in ("proc", "dev", "secret", "keep", "elsewhere"):
        (root / name).mkdir(parents=True)
    (root / "secret/inside").write_text("hidden")
    for name, mode in (("closed", 0o700), ("open", 0o2750)):
        (root / name).mkdir()
        (root / name).chmod(mode)
        os.chown(root / name, 7, 8)
    # A hostile image: its /etc leads out of the root.
    (root / "etc").symlink_to("../../../../elsewhere")
    linux.mount("tmpfs", "/dev", "tmpfs")
    os.mkdir("/dev/net")
    os.mkdir("/dev/pts")
    os.mknod("/dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for name in ("kmsg", "net/tun", "pts/0", "vport0p1", "ttyS0"):
        os.mknod(f"/dev/{name}", stat.S_IFCHR | 0o640, os.makedev(1, 11))
        os.chown(f"/dev/{name}", 7, 8)
    os.mknod("/dev/sda", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    Path("/dev/file").touch()
    spec = Spec(
        raw=b"",
        process=oci.Process(args=("true",)),
        root=oci.Root(str(root), readonly=True),
        hostname="",
        domainname="",
        mounts=(
            oci.Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "mode=755")),
            oci.Mount("/tmp/deep", "tmpfs", "tmpfs", ("size=64k",)),
            oci.Mount("/tmp/deep/below", "bind", f"{directory}/file", ("bind", "ro")),
            oci.Mount("/closed", "tmpfs", "tmpfs", ("mode=1711",)),
            oci.Mount("/open", "tmpfs", "tmpfs", ()),
            oci.Mount("/sealed", "tmpfs", "tmpfs", ("ro",)),
            oci.Mount("/sealed/below", "bind", f"{directory}/file", ("bind",)),
            oci.Mount("/etc/name", "bind", f"{directory}/file", ("bind",)),
        ),
        linux=oci.Linux(
            masked_paths=("/secret", "/dev/zero", "/missing"),
            readonly_paths=("/keep", "/missing"),
            devices=(oci.Device("/dev/mine", "c", 1, 3, 0o600, 7, 8),),
            guest_devices=True,
        ),
        namespaces=frozenset(("mount",)),
    )
    enter_root(spec)
    hide_paths(spec)
    assert Path("/tmp/deep/below").read_text() == "bound"
    assert Path("/etc/name").read_text() == "bound", os.listdir("/")
    assert os.listdir("/secret") == []
    assert os.stat("/dev/zero").st_rdev == os.makedev(1, 3)
    assert os.stat("/dev/full").st_rdev == os.makedev(1, 7)
    mine = os.stat("/dev/mine")
    assert (mine.st_rdev, mine.st_mode & 0o777, mine.st_uid, mine.st_gid) == (os.makedev(1, 3), 0o600, 7, 8)
    # The guest's devices, but for those of the tether.
    assert set(os.listdir("/dev")) >= {"kmsg", "net", "sda", "mine"}
    assert not set(os.listdir("/dev")) & {"pts", "vport0p1", "ttyS0", "file"}
    found = os.stat("/dev/net/tun")
    assert (found.st_rdev, found.st_mode & 0o777, found.st_uid, found.st_gid) == (os.makedev(1, 11), 0o640, 7, 8)
    assert stat.S_ISBLK(os.stat("/dev/sda").st_mode)
    assert os.readlink("/dev/fd") == "/proc/self/fd"
    # A tmpfs has the mode of the directory below it, unless the options say another; its owner is root.
    modes = [
        (found.st_mode & 0o7777, found.st_uid, found.st_gid)
        for found in map(os.stat, ("/open", "/closed", "/tmp/deep"))
    ]
    assert modes == [(0o2750, 0, 0), (0o1711, 0, 0), (0o1777, 0, 0)]
    assert Path("/sealed/below").read_text() == "bound"
    for path in ("/new", "/keep/new", "/tmp/deep/below", "/sealed/new"):
        with pytest.raises(OSError, match="Read-only file system"):
            open(path, "w").close()
    Path("/tmp/deep/new").write_text("a tmpfs stays writable")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_root_is_made_in_order(tmp_path: Path) -> None:
    run_isolated(_enter, str(tmp_path), namespaces=("--mount",))
