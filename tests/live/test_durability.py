"""kill -9 of vchd loses nothing: containers, images, running machines, output."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, running_daemon
from tests.live.waiting import until

pytestmark = pytest.mark.live

_COUNTER = "i=0; while [ $i -lt 100000 ]; do echo $i; i=$((i+1)); [ $((i % 50)) -ne 0 ] || sleep 0.05; done"


def _numbers(daemon: Daemon, name: str) -> list[int]:
    return [int(line) for line in daemon.must("logs", name).split("\n")[:-1] if line]


def _begin_exec(daemon: Daemon, name: str, script: str) -> str:
    """Create and start an exec, and leave. Return its id."""
    body = {"Cmd": ["sh", "-c", script], "AttachStdout": True}
    exec_id: str = json.loads(daemon.request("POST", f"/containers/{name}/exec", body)[1])["Id"]
    assert daemon.request("POST", f"/exec/{exec_id}/start", {"Detach": True})[0] == 200
    return exec_id


def test_a_counter_is_gap_free_across_three_kills(short_path: Path) -> None:
    with running_daemon(short_path) as daemon:
        daemon.must("run", "-d", "--name", "counter", "busybox", "sh", "-c", _COUNTER)
        daemon.must("create", "--name", "waiting", "busybox", "echo", "made before")
        exec_id = _begin_exec(daemon, "counter", "echo first; sleep 1; echo last; exit 7")
        seen = 0
        for _ in range(3):
            deadline = time.monotonic() + 60
            while (now := len(_numbers(daemon, "counter"))) < seen + 300:
                assert time.monotonic() < deadline, f"no output since {seen}"
                time.sleep(0.2)
            seen = now
            daemon.kill()
            time.sleep(1)
            daemon.start()
        deadline = time.monotonic() + 60
        while len(_numbers(daemon, "counter")) < seen + 300:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert daemon.must("inspect", "counter", "--format", "{{.State.Status}}").strip() == "running"
        # The exec's output waits for a client, though three daemons have come and gone.
        until(lambda: json.loads(daemon.request("GET", f"/exec/{exec_id}/json")[1])["ExitCode"] == 7)
        assert daemon.request("POST", f"/exec/{exec_id}/start", {"Tty": True}) == (200, "first\nlast\n")
        daemon.must("kill", "counter")
        assert daemon.must("wait", "counter").strip() == "137"
        numbers = _numbers(daemon, "counter")
        assert numbers == list(range(len(numbers)))
        assert daemon.must("start", "-a", "waiting") == "made before\n"


def test_what_ends_while_vchd_is_away_is_found_ended(short_path: Path) -> None:
    with running_daemon(short_path) as daemon:
        daemon.must("run", "-d", "--name", "short", "busybox", "sh", "-c", "echo before; sleep 3; echo after; exit 5")
        daemon.kill()
        time.sleep(5)
        daemon.start()
        assert daemon.must("wait", "short").strip() == "5"
        assert daemon.must("logs", "short") == "before\nafter\n"


@pytest.mark.parametrize("moment", [0.0, 0.1, 1.0])
def test_a_start_cut_in_half_leaves_a_container_that_can_be_started(short_path: Path, moment: float) -> None:
    with running_daemon(short_path) as daemon:
        daemon.must("create", "--name", "half", "-p", "127.0.0.1:8080:80", "busybox", "echo", "whole")
        container = daemon.must("inspect", "half", "--format", "{{.Id}}").strip()
        start = subprocess.Popen(daemon.command("start", "half"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until((short_path / "exec/machines" / container / "machine.json").exists)
        time.sleep(moment)
        daemon.kill()
        start.wait(60)
        daemon.start()
        # vchd waits for a start that was under way; if the start had not come far enough, vchd starts again. If the process had
        # run, its output is in the log already, and a client that attaches before that run ends sees nothing of it.
        daemon.must("wait", "half")
        assert daemon.must("start", "-a", "half") == "whole\n"
        daemon.must("run", "--rm", "-p", "127.0.0.1:8080:80", "busybox", "true")
        assert (
            daemon.must("inspect", "half", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}")
            == "exited 0 \n"
        )


@pytest.mark.parametrize("stopped", [False, True])
def test_a_restart_cut_in_half_is_made_again_unless_it_is_stopped(short_path: Path, stopped: bool) -> None:
    with running_daemon(short_path) as daemon:
        daemon.must("run", "-d", "--name", "again", "--restart", "always", "busybox", "sh", "-c", "sleep 2; exit 3")
        container = daemon.must("inspect", "again", "--format", "{{.Id}}").strip()
        machine = short_path / "exec/machines" / container / "machine.json"
        until(lambda: not machine.exists(), 60)
        until(machine.exists)
        daemon.kill()
        daemon.start()
        if stopped:
            daemon.must("stop", "again")
            time.sleep(3)
            assert daemon.must("inspect", "again", "--format", "{{.State.Status}}") == "exited\n"
        else:
            until(lambda: daemon.must("inspect", "again", "--format", "{{.State.Running}}") == "true\n", 60)


def test_a_file_session_does_not_change_an_exited_container(short_path: Path) -> None:
    with running_daemon(short_path) as daemon:
        daemon.docker("run", "--name", "over", "busybox", "sh", "-c", "exit 3")
        daemon.must("cp", "over:/etc/hostname", str(short_path / "copied"))
        daemon.kill()
        daemon.start()
        (short_path / "new").write_text("new")
        daemon.must("cp", str(short_path / "new"), "over:/new")
        assert (
            daemon.must("inspect", "over", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}")
            == "exited 3 \n"
        )
        assert daemon.must("wait", "over") == "3\n"


def test_a_machine_that_dies_by_itself_is_an_exit(short_path: Path) -> None:
    with running_daemon(short_path) as daemon:
        container = daemon.must("run", "-d", "--name", "victim", "busybox", "sleep", "1000").strip()
        state = json.loads((short_path / "exec/machines" / container / "machine.json").read_text())
        os.kill(state["pid"], 9)
        assert daemon.must("wait", "victim").strip() == "137"
        assert daemon.must("inspect", "victim", "--format", "{{.State.Status}}").strip() == "exited"
        assert not (short_path / "exec/machines" / container).exists()
