"""docker pause and unpause: the processes stand still, whatever becomes of vchd meanwhile."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, running_daemon

pytestmark = pytest.mark.live

_COUNTER = "trap 'exit 12' USR2; i=0; while true; do i=$((i+1)); echo $i; sleep 0.02; done"


def _count(daemon: Daemon, name: str) -> int:
    return len(daemon.must("logs", name).split())


def _grows(daemon: Daemon, name: str) -> bool:
    before = _count(daemon, name)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if _count(daemon, name) > before + 3:
            return True
        time.sleep(0.1)
    return False


def _stands_still(daemon: Daemon, name: str) -> bool:
    time.sleep(0.5)  # output that was under way arrives
    before = _count(daemon, name)
    time.sleep(1)
    return _count(daemon, name) == before


def _state(daemon: Daemon, name: str) -> tuple[str, bool, bool]:
    state = json.loads(daemon.must("inspect", name, "--format", "{{json .State}}"))
    return state["Status"], state["Running"], state["Paused"]


@pytest.fixture
def counter(daemon: Daemon) -> Iterator[str]:
    daemon.must("run", "-d", "--name", "ticking", "busybox", "sh", "-c", _COUNTER)
    yield "ticking"
    daemon.must("rm", "-f", "ticking")


def test_a_paused_container_stands_still_and_goes_on(daemon: Daemon, counter: str) -> None:
    assert _grows(daemon, counter)
    daemon.must("pause", counter)
    assert _state(daemon, counter) == ("paused", True, True)
    assert _stands_still(daemon, counter)
    assert daemon.must("ps", "--filter", "status=paused", "--format", "{{.Names}} {{.State}}") == f"{counter} paused\n"
    assert "(Paused)" in daemon.must("ps", "--filter", f"name={counter}", "--format", "{{.Status}}")
    assert counter not in daemon.must("ps", "--filter", "status=running", "--format", "{{.Names}}")
    assert daemon.must("info", "--format", "{{.ContainersPaused}}").strip() == "1"
    daemon.must("unpause", counter)
    assert _state(daemon, counter) == ("running", True, False)
    assert _grows(daemon, counter)
    numbers = [int(line) for line in daemon.must("logs", counter).split()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_requests_refused_while_paused(daemon: Daemon, counter: str) -> None:
    full = daemon.must("inspect", counter, "--format", "{{.Id}}").strip()
    at = f"/v1.41/containers/{counter}"
    assert daemon.request("POST", "/containers/nobody/pause")[0] == 404
    assert daemon.request("POST", f"{at}/unpause") == (500, f"Container {full} is not paused")
    assert daemon.request("POST", f"{at}/pause")[0] == 204
    assert daemon.request("POST", f"{at}/pause") == (409, f"Container {full} is already paused")
    assert daemon.request("POST", f"{at}/start") == (409, "cannot start a paused container, try unpause instead")
    assert daemon.request("POST", f"{at}/exec", {"Cmd": ["true"]}) == (
        409,
        f"Container {counter} is paused, unpause the container before exec",
    )
    assert daemon.request("POST", f"{at}/attach?stream=1&stdout=1") == (
        409,
        f"container {counter} is paused, unpause the container before attach",
    )
    code, text = daemon.request("DELETE", at)
    assert (code, text.startswith(f"You cannot remove a paused container {full}")) == (409, True)
    daemon.must("create", "--name", "notyet", "busybox", "true")
    notyet = daemon.must("inspect", "notyet", "--format", "{{.Id}}").strip()
    assert daemon.request("POST", "/containers/notyet/pause") == (409, f"container {notyet} is not running")
    daemon.must("rm", "notyet")


@pytest.mark.parametrize("command", [["stop", "-t", "1"], ["kill"], ["restart", "-t", "1"]])
def test_a_paused_container_can_be_ended(daemon: Daemon, counter: str, command: list[str]) -> None:
    daemon.must("pause", counter)
    daemon.must(*command, counter)
    assert _state(daemon, counter)[0] == ("running" if command[0] == "restart" else "exited")


def test_a_signal_waits_until_unpause(daemon: Daemon, counter: str) -> None:
    assert _grows(daemon, counter)  # so that its trap is set
    since = str(time.time())
    daemon.must("pause", counter)
    daemon.must("kill", "-s", "USR2", counter)
    assert _state(daemon, counter)[0] == "paused"
    daemon.must("unpause", counter)
    assert daemon.must("wait", counter).strip() == "12"
    lines = daemon.must("events", "--since", since, "--until", str(time.time()), "--format", "{{json .}}").splitlines()
    actions = [
        event["Action"] for event in map(json.loads, lines) if event["Actor"]["Attributes"].get("name") == counter
    ]
    assert actions == ["pause", "kill", "unpause", "die"]


def test_a_pause_survives_a_kill_of_vchd(short_path: Path) -> None:
    with running_daemon(short_path) as daemon:
        daemon.must("run", "-d", "--name", "ticking", "busybox", "sh", "-c", _COUNTER)
        daemon.must("pause", "ticking")
        daemon.kill()
        daemon.start()
        deadline = time.monotonic() + 60
        while _state(daemon, "ticking") != ("paused", True, True):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert _stands_still(daemon, "ticking")
        daemon.must("unpause", "ticking")
        assert _grows(daemon, "ticking")
        daemon.must("rm", "-f", "ticking")
