"""The modules disk: its files, the same bytes in each build, and the cache."""

import subprocess
from pathlib import Path

import pytest

from build.guest import modules_disk
from tests.build.reproducible import different_files

_VERSION = "6.1.0-1-cloud-amd64"
_DEVNAME = "# Device nodes\nfuse fuse c10:229\ntun net/tun c10:200\n"
# What depmod does as far as it matters here.
_KMOD = f"""#!/bin/sh
printf '{_DEVNAME.encode("unicode_escape").decode()}' > "$2/lib/modules/$3/modules.devname"
"""


def _tree(folder: Path) -> tuple[Path, Path]:
    tree, headers = folder / "tree", folder / "headers"
    modules = tree / "lib/modules" / _VERSION / "kernel"
    for made in (modules, tree / "boot", tree / "bin", headers / "usr/src", headers / "usr/lib"):
        made.mkdir(parents=True)
    (modules / "tun.ko").write_bytes(b"module" * 1000)
    (tree / f"boot/config-{_VERSION}").write_text("CONFIG_TUN=m\n")
    (tree / "bin/kmod").write_text(_KMOD)
    (tree / "bin/kmod").chmod(0o755)
    (headers / "usr/src/Makefile").write_text("all:\n")
    (headers / "lib/modules" / _VERSION).mkdir(parents=True)
    (headers / "lib/modules" / _VERSION / "build").symlink_to("/usr/src")
    return tree, headers


def _written(folder: Path) -> Path:
    tree, headers = _tree(folder)
    work = folder / "work"
    work.mkdir()
    assert modules_disk.write_modules_disk(tree, headers, work, folder / "disk") == _DEVNAME
    return folder / "disk"


def test_the_same_bytes_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert different_files(lambda folder: {"disk": _written(folder).read_bytes()}, tmp_path, monkeypatch) == []


def test_files_of_the_disk(tmp_path: Path) -> None:
    disk = _written(tmp_path)
    assert disk.stat().st_size % 4096 == 0
    listed = subprocess.run(
        ["unsquashfs", "-lln", "-d", "", str(disk)], capture_output=True, text=True, check=True
    ).stdout
    found = {line.split()[-3 if "->" in line else -1]: line[:10] for line in listed.splitlines() if line[:1] in "-ld"}
    modules = f"/lib/modules/{_VERSION}"
    assert found["/sbin/modprobe"] == "-rwxr-xr-x"
    assert found["/usr/src/Makefile"] == found[f"{modules}/config"] == found[f"{modules}/kernel/tun.ko"] == "-rw-r--r--"
    assert found[f"{modules}/build"] == "lrwxrwxrwx"
    assert f"{modules}/modules.devname" in found


def test_the_disk_is_written_once_for_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, headers = _tree(tmp_path)
    unpacked: list[Path] = []

    def unpack(target: Path) -> None:
        unpacked.append(target)
        headers.rename(target) if headers.exists() else None

    def write(_: Path, __: Path, ___: Path, target: Path) -> str:
        target.write_bytes(b"disk")
        return _DEVNAME

    monkeypatch.setattr(modules_disk, "write_modules_disk", write)
    cache = tmp_path / "cache"
    cache.mkdir()
    first = modules_disk.modules_disk(cache, {"kmod": "1", "libc6": "1"}, tree, unpack)
    assert (first / "modules.devname").read_text() == _DEVNAME
    # Other packages of the guest do not matter.
    assert modules_disk.modules_disk(cache, {"kmod": "1", "libc6": "2"}, tree, unpack) == first
    assert len(unpacked) == 1
    second = modules_disk.modules_disk(cache, {"kmod": "2"}, tree, unpack)
    assert (first.exists(), second.exists()) == (False, True)


def test_device_nodes() -> None:
    nodes = modules_disk.device_nodes(_DEVNAME).splitlines()
    assert nodes[:3] == ["fuse c 10 229", "net/tun c 10 200", "loop0 b 7 0"]
    assert len(nodes) == 10


def test_packages_with_headers() -> None:
    text = "linux-headers-6.1\n  Depends: linux-headers-6.1-common\n  Depends: linux-kbuild-6.1\n  Depends: linux-compiler-gcc\n"
    assert modules_disk.header_packages("linux-image-6.1", text) == [
        "linux-headers-6.1",
        "linux-headers-6.1-common",
        "linux-kbuild-6.1",
    ]
