"""Starts and removals leave nothing: descriptors, memory, shared memory, files, processes."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.live.daemon import FLAGS, Daemon, running_daemon

pytestmark = pytest.mark.live


def _usage(daemon: Daemon) -> dict[str, int]:
    process = Path("/proc") / str(daemon.pid)
    rss = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    shared = os.statvfs("/dev/shm")
    files = [path for top in ("data", "exec") for path in (daemon.root / top).rglob("*")]
    disk = subprocess.run(["du", "-sk", daemon.root / "data"], capture_output=True, text=True, check=True).stdout
    return {
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
        "rss": rss,
        "shm": (shared.f_blocks - shared.f_bfree) * shared.f_frsize // 1024,
        "files": len(files),
        "disk": int(disk.split()[0]),
        "machines": len(list((daemon.root / "exec/machines").iterdir())),
    }


def _rounds(daemon: Daemon, count: int) -> None:
    for number in range(count):
        if number % 2:
            assert daemon.must("run", "--rm", "busybox", "echo", "x") == "x\n"
        else:
            daemon.must("run", "-d", "--name", "leak", "busybox", "sleep", "1000")
            daemon.must("rm", "-f", "leak")


# Both numbers are even: each round is one of two kinds. If every VM boots, two hundred starts would take half an hour.
_WARM_UP, _COUNTED = (40, 200) if "VCH_TEST_LEAKS" in os.environ else (4, 16) if "off" in FLAGS else (10, 40)
# In KiB. Over 200 starts a leak of 40 KiB of memory at each would show. Fewer starts show less: after a shorter warm-up
# vchd still grows, and so does the log of its database, up to 4 MiB.
_MEMORY, _DISK = (6 << 10, 2 << 10) if _WARM_UP == 40 else (12 << 10, 7 << 10)


def test_starts_and_removals_leave_nothing(short_path: Path) -> None:
    with running_daemon(short_path) as daemon:
        daemon.wait_pool()
        # Everything that vchd makes once exists by now.
        _rounds(daemon, _WARM_UP)
        daemon.wait_pool()
        before = _usage(daemon)
        _rounds(daemon, _COUNTED)
        daemon.wait_pool()
        after = _usage(daemon)
    for key in ("descriptors", "threads", "shm", "files", "machines"):
        assert after[key] <= before[key] + 3, (key, before, after)
    assert after["rss"] <= before["rss"] + _MEMORY, (before, after)
    assert after["disk"] <= before["disk"] + _DISK, (before, after)
