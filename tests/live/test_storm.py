"""Many starts at once: all succeed in turn, and a queued start can be cancelled."""

import concurrent.futures
import json
import subprocess
import time

import pytest

from tests.live.daemon import Daemon

pytestmark = pytest.mark.live


def test_fifty_runs_at_once(daemon: Daemon) -> None:
    def one(number: int) -> tuple[str, int]:
        result = daemon.docker("run", "--rm", "busybox", "sh", "-c", f"echo {number}; exit {number}", timeout=600)
        return result.stdout, result.returncode

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        assert list(pool.map(one, range(50))) == [(f"{number}\n", number) for number in range(50)]


def _started(daemon: Daemon, names: list[str]) -> "list[subprocess.Popen[bytes]]":
    for name in names:
        daemon.must("create", "--name", name, "busybox", "sleep", "1000")
    return [
        subprocess.Popen(daemon.command("start", name), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for name in names
    ]


def _queued(daemon: Daemon) -> int:
    return int(dict(json.loads(daemon.must("info", "--format", "{{json .DriverStatus}}")))["Starts queued"])


def test_a_queued_start_can_be_cancelled(daemon: Daemon) -> None:
    names = [f"queued{number}" for number in range(12)]
    starts = _started(daemon, names)
    deadline = time.monotonic() + 60
    while _queued(daemon) < 4:
        assert time.monotonic() < deadline
    off = names[-3:]
    daemon.must("stop", off[0])
    daemon.must("kill", off[1])
    daemon.must("rm", "-f", off[2])
    for name, start in zip(names, starts, strict=True):
        _, error = start.communicate(timeout=120)
        if name not in off:
            assert (start.returncode, error) == (0, b""), name
    states = dict(
        line.split()
        for line in daemon.must("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines()
        if line.startswith("queued")
    )
    # One of them may have started meanwhile; then it was stopped as usual.
    assert off[2] not in states
    assert {states[name] for name in off[:2]} <= {"created", "exited"}
    assert all(states[name] == "running" for name in names if name not in off)
    # A cancelled container can be started again.
    daemon.must("start", off[0])
    daemon.must("rm", "-f", *names[:-1])


def test_a_booting_start_can_be_cancelled(daemon: Daemon) -> None:
    # There is no template for this memory size yet, so the start takes seconds.
    daemon.must("create", "--name", "slow", "-m", "600m", "busybox", "sleep", "1000")
    start = subprocess.Popen(daemon.command("start", "slow"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    container = daemon.must("inspect", "slow", "--format", "{{.Id}}").strip()
    deadline = time.monotonic() + 60
    while not (daemon.root / "exec/machines" / container / "command").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    daemon.must("rm", "-f", "slow")
    _, error = start.communicate(timeout=60)
    assert b"the start of container" in error
    assert not (daemon.root / "exec/machines" / container).exists()
