"""`make test-files`: calls that file systems may refuse, on the root, a directory volume, a disk and a tmpfs of a container.

The table holds what does not work, as `volume/README.md` lists it. dockerd on the guest's kernel (6.1) gives the same results for the
root, the disk and the tmpfs: the refusals are the kernel's or the seccomp profile's. Those of the directory volume are virtiofs's.
"""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from build.guest.image import fetch_packages, resolve_packages
from tests.live.daemon import Daemon, running_daemon
from tests.live.filesystem_calls import CALLS
from tests.live.images import busybox_layer, image_archive

pytestmark = [
    pytest.mark.skipif(not os.environ.get("VCH_TEST_FILES"), reason="takes long: make test-files"),
    pytest.mark.skipif(os.geteuid() != 0, reason="virtiofsd needs the rights of root"),
]

ROOT, VOLUME, DISK, MEMORY = "/", "/volume", "/disk", "/memory"
_PYTHON = (
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libc6",
    "zlib1g",
    "libexpat1",
    "libffi8",
)
# Call to directory to result, unless that is "ok".
REFUSED = {
    # overlayfs and FUSE of 6.1 have no O_TMPFILE. Without it, glibc and others make a file and unlink it.
    "O_TMPFILE": {ROOT: "ENOTSUP", VOLUME: "ENOTSUP"},
    # The link of /proc/self/fd is on another file system, as with Docker.
    "O_TMPFILE and linkat": {ROOT: "ENOTSUP", VOLUME: "ENOTSUP", DISK: "EXDEV", MEMORY: "EXDEV"},
    "RENAME_WHITEOUT": {ROOT: "EINVAL"},
    "mknod of a whiteout": {ROOT: "EPERM"},
    "name_to_handle_at": {ROOT: "ENOTSUP"},
    # Needs CAP_DAC_READ_SEARCH.
    "open_by_handle_at": {ROOT: "ENOTSUP", VOLUME: "EPERM", DISK: "EPERM", MEMORY: "EPERM"},
    "xattr user": {MEMORY: "ENOTSUP"},
    # Needs CAP_SYS_ADMIN.
    "xattr trusted": {ROOT: "EPERM", VOLUME: "EPERM", DISK: "EPERM", MEMORY: "EPERM"},
    # The kernel grants no lease on a file that is open twice.
    "lease": {ROOT: "EAGAIN", VOLUME: "EAGAIN", DISK: "EAGAIN", MEMORY: "EAGAIN"},
    "fallocate ZERO_RANGE": {MEMORY: "ENOTSUP"},
    "fallocate COLLAPSE_RANGE": {VOLUME: "ENOTSUP", MEMORY: "ENOTSUP"},
    "fallocate INSERT_RANGE": {VOLUME: "ENOTSUP", MEMORY: "ENOTSUP"},
    "FICLONE": {ROOT: "ENOTSUP", VOLUME: "ENOTSUP", DISK: "ENOTSUP", MEMORY: "ENOTSUP"},
    "O_DIRECT": {MEMORY: "EINVAL"},
    "FS_IOC_GETFLAGS": {VOLUME: "ENOTTY"},
    "statx birth time": {VOLUME: "not known"},
    # --tmpfs is mounted noexec.
    "execute a script": {MEMORY: "EACCES"},
}


def _layer(root: Path) -> bytes:
    """Debian's Python, and the program."""
    versions = {name: version for name, version in resolve_packages().items() if name in _PYTHON}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch/downloads"
    for package in fetch_packages(versions, cache):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for part in ("usr/bin", "usr/lib", "lib", "lib64"):
            archive.add(root / part, part, filter=lambda member: None if "gconv" in member.name else member)
        archive.add(Path(__file__).parent / "filesystem_calls.py", "calls.py")
    return out.getvalue()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("calls")) as daemon:
        yield daemon


def test_calls_that_file_systems_may_refuse(daemon: Daemon, tmp_path: Path) -> None:
    config: dict[str, object] = {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"]}
    daemon.must("load", stdin=image_archive([busybox_layer(), _layer(tmp_path)], config, "python:latest"))
    daemon.must("volume", "create", "-o", "size=64m", "disk")
    options = ("-v", f"volume:{VOLUME}", "-v", f"disk:{DISK}", "--tmpfs", MEMORY)
    command = ("python3.11", "-I", "-S", "/calls.py", ROOT, VOLUME, DISK, MEMORY)
    found = json.loads(daemon.must("run", "--rm", *options, "python", *command))
    for place, results in found.items():
        refused = {call: places[place] for call, places in REFUSED.items() if place in places}
        assert results == dict.fromkeys(CALLS, "ok") | refused, place
