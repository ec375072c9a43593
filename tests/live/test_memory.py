"""Memory that a guest frees goes back to the host, where QEMU can do that."""

import json
import time
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, running_daemon

pytestmark = pytest.mark.live


def _resident(daemon: Daemon, container: str) -> int:
    """MiB of host memory that a container's VM holds."""
    state = json.loads((daemon.root / "exec/machines" / container / "machine.json").read_text())
    lines = Path(f"/proc/{state['pid']}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) // 1024


def test_a_booted_machine_gives_back_what_its_container_freed(short_path: Path) -> None:
    with running_daemon(short_path, "--vm-template", "off") as daemon:
        container = daemon.must("run", "-d", "busybox", "sleep", "100000").strip()
        daemon.must("exec", container, "dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=60")
        full = _resident(daemon, container)
        daemon.must("exec", container, "rm", "/dev/shm/x")
        deadline = time.monotonic() + 60
        while (now := _resident(daemon, container)) > full - 30:
            assert time.monotonic() < deadline, (full, now)
            time.sleep(0.5)
        assert daemon.must("exec", container, "echo", "well") == "well\n"
