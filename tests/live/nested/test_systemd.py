"""systemd of Debian as the first process of a container."""

from collections.abc import Callable

import pytest

from tests.apps.images import App
from tests.live.daemon import Daemon, on_qemu
from tests.live.nested.images import SYSTEMD
from tests.live.waiting import until

pytestmark = [pytest.mark.live, on_qemu, pytest.mark.usefixtures("in_lane")]

_SECONDS = 120


def test_systemd_runs_units_and_ends_by_its_signal(daemon: Daemon, load: Callable[[Daemon, App], None]) -> None:
    load(daemon, SYSTEMD)
    daemon.must("run", "-d", "--privileged", "--name", "system", SYSTEMD.name)

    def state() -> str:
        return daemon.docker("exec", "system", "systemctl", "is-system-running").stdout.strip()

    until(lambda: state() in ("running", "degraded"), _SECONDS, "systemd does not finish its start")
    assert state() == "running", daemon.docker("exec", "system", "systemctl", "--failed").stdout
    # systemd has moved itself into a cgroup below the container's, which then can hold no process: an exec joins systemd.
    assert daemon.must("exec", "system", "sh", "-c", "cat /proc/self/cgroup /proc/1/cgroup") == "0::/init.scope\n" * 2
    command = "cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max"
    unit = ("systemd-run", "--wait", "--pipe", "--quiet", "-p", "MemoryMax=100M", "sh", "-c", command)
    assert daemon.must("exec", "system", *unit) == f"{100 << 20}\n"
    assert "Journal started" in daemon.must("exec", "system", "journalctl", "--no-pager", "-u", "systemd-journald")
    daemon.must("stop", "-t", "90", "system")
    # Halted: the kernel ends the first process of a pid namespace with SIGINT then (pid_namespaces(7)). Killed would be 137.
    assert daemon.must("inspect", "-f", "{{.State.ExitCode}}", "system") == "130\n"
    daemon.must("rm", "system")
