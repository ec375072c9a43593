"""Restart policies: the state between runs, cancelling a restart, and going on after vchd was killed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.live.daemon import BOOTS, Daemon, on_qemu, running_daemon

pytestmark = pytest.mark.live

# For some restarts.
_SECONDS = 240 if BOOTS else 60


def _state(daemon: Daemon, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(daemon.must("inspect", name, "--format", "{{json .State}}"))
    return found


def _until_restarting(daemon: Daemon, name: str) -> None:
    deadline = time.monotonic() + 60
    while _state(daemon, name)["Status"] != "restarting":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def failing(daemon: Daemon) -> str:
    daemon.docker("rm", "-f", "failing")
    daemon.must("run", "-d", "--name", "failing", "--restart", "always", "busybox", "sh", "-c", "echo again; exit 3")
    # Until the back-off is long enough to observe.
    deadline = time.monotonic() + _SECONDS
    while int(daemon.must("inspect", "failing", "--format", "{{.RestartCount}}")) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    _until_restarting(daemon, "failing")
    return "failing"


def test_the_state_between_two_runs_is_restarting(daemon: Daemon, failing: str) -> None:
    state = _state(daemon, failing)
    assert (state["Running"], state["Restarting"], state["ExitCode"]) == (True, True, 3)
    assert "Restarting (3)" in daemon.must("ps", "--filter", f"name={failing}", "--format", "{{.Status}}")
    assert "is restarting, wait until the container is running" in daemon.docker("exec", failing, "true").stderr
    assert "You cannot remove a restarting container" in daemon.docker("rm", failing).stderr
    assert daemon.request("POST", f"/containers/{failing}/start")[0] == 304
    daemon.must("rm", "-f", failing)


def test_stop_cancels_a_restart(daemon: Daemon, failing: str) -> None:
    daemon.must("stop", failing)
    assert _state(daemon, failing)["Status"] == "exited"
    count = daemon.must("inspect", failing, "--format", "{{.RestartCount}}")
    time.sleep(4)
    assert (
        daemon.must("inspect", failing, "--format", "{{.RestartCount}} {{.State.Status}}")
        == f"{count.strip()} exited\n"
    )
    daemon.must("rm", failing)


def test_on_failure_ends_after_its_maximum(daemon: Daemon) -> None:
    daemon.must("run", "-d", "--name", "thrice", "--restart", "on-failure:3", "busybox", "sh", "-c", "exit 2")
    deadline = time.monotonic() + _SECONDS
    while daemon.must("inspect", "thrice", "--format", "{{.RestartCount}} {{.State.Status}}") != "3 exited\n":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    daemon.must("rm", "thrice")


@on_qemu
def test_policies_outlive_vchd(short_path: Path) -> None:
    with running_daemon(short_path) as daemon:
        for policy in ("always", "unless-stopped", "no"):
            for stopped in ("stopped", "runs"):
                daemon.must(
                    "run", "-d", "--name", f"{policy}-{stopped}", "--restart", policy, "busybox", "sleep", "100000"
                )
            daemon.must("stop", "-t", "0", f"{policy}-stopped")
        daemon.kill()
        # The host went down, and the VMs with it.
        for folder in (short_path / "exec/machines").iterdir():
            pid = json.loads((folder / "machine.json").read_text())["pid"]
            if pid:
                os.kill(pid, signal.SIGKILL)
        daemon.start()
        expected = {"always-stopped", "always-runs", "unless-stopped-runs"}
        deadline = time.monotonic() + 1.5 * _SECONDS
        while set(daemon.must("ps", "--format", "{{.Names}}").split()) != expected:
            assert time.monotonic() < deadline, daemon.must("ps", "-a")
            time.sleep(0.3)
