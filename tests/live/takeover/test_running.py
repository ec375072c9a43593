"""An earlier version's vchd is killed while its VMs run; this version's vchd takes them over, with the guest that they have."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, on_qemu
from tests.live.host_programs import BIND, SHELL, attributes
from tests.live.takeover.previous import COMMITS, previous
from tests.live.terminal import Terminal
from tests.live.waiting import until

pytestmark = [
    pytest.mark.live,
    on_qemu,
    pytest.mark.skipif(bool(os.geteuid()), reason="published ports are asked in a network namespace, which needs root"),
]

_COUNT = "trap 'exit 12' USR2; i=0; while true; do i=$((i+1)); echo $i; sleep 0.02; done"
_ATTRIBUTES = ("user.kept=1", "user.virtiofs.kept=2", "user.virtiofs.trusted.kept=3")
_SERVE = "mkdir -p /data; echo served > /data/index.html; exec httpd -f -p 80 -h /data"


def _state(daemon: Daemon, name: str, template: str = "{{.State.Status}}") -> str:
    return daemon.must("inspect", name, "--format", template).strip()


def _numbers(daemon: Daemon, name: str) -> list[str]:
    return daemon.must("logs", name).split()


def _is_whole(numbers: list[str]) -> bool:
    return numbers == [str(number + 1) for number in range(len(numbers))]


def _create(daemon: Daemon) -> None:
    daemon.must("network", "create", "--subnet=10.79.0.0/24", "front")
    daemon.must("run", "-d", "--name", "counting", "busybox", "sh", "-c", _COUNT)
    daemon.must("run", "-d", "--name", "standing", "busybox", "sh", "-c", _COUNT)
    daemon.must("run", "-dit", "--name", "terminal", "busybox", "sh")
    daemon.must("run", "-d", "--name", "serving", "-p", "18080:80", "-v", "data:/data", "busybox", "sh", "-c", _SERVE)
    daemon.must("network", "connect", "--alias=web", "front", "serving")
    probe = ["--health-cmd=test -e /tmp/well", "--health-interval=1s", "--health-retries=1"]
    script = "touch /tmp/well; echo started; trap 'exit 4' USR1; while true; do sleep 0.1; done"
    daemon.must("run", "-d", "--name", "healthy", "--restart=always", *probe, "busybox", "sh", "-c", script)
    daemon.must("exec", "-d", "healthy", "sh", "-c", "echo by exec > /tmp/exec; exec sleep 100000")
    marked = f"{SHELL} touch /m/file; {attributes('/m/file', *_ATTRIBUTES)}"
    assert daemon.shell("-v", "marked:/m", *BIND, marked).stdout.split() == list(_ATTRIBUTES)
    daemon.must("pause", "standing")
    until(lambda: _state(daemon, "healthy", "{{.State.Health.Status}}") == "healthy", 60)


def _fetch(daemon: Daemon) -> str:
    return daemon.run_inside("curl", "-sS", "--max-time", "10", "http://127.0.0.1:18080/")


@pytest.fixture(scope="module", params=sorted(COMMITS))
def taken_over(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    found = previous(request.param)
    if found is None:
        pytest.skip(f"git history does not have the commit of version {request.param}")
    root = Path(tempfile.mkdtemp(prefix="vch-", dir="/tmp"))
    root.chmod(0o711)
    daemon = Daemon(root)
    try:
        daemon.source, daemon.flags = found.source, ["--guest", str(found.guest)]
        daemon.start()
        daemon.load_busybox()
        _create(daemon)
        assert _fetch(daemon) == "served\n"
        daemon.kill()
        daemon.source, daemon.flags = None, []
        # Output goes on meanwhile, into the guest's spool.
        time.sleep(1)
        daemon.start()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(root, ignore_errors=True)


def test_all_of_them_run(taken_over: Daemon) -> None:
    expected = ["counting running", "healthy running", "serving running", "standing paused", "terminal running"]
    command = ["ps", "--format", "{{.Names}} {{.State}}"]
    # vchd asks the guest whether its container is paused, a moment after it listens.
    until(lambda: sorted(taken_over.must(*command).splitlines()) == expected)
    assert {_state(taken_over, name, "{{.RestartCount}}") for name in ("counting", "healthy")} == {"0"}


def test_no_output_is_lost(taken_over: Daemon) -> None:
    before = len(_numbers(taken_over, "counting"))
    until(lambda: len(_numbers(taken_over, "counting")) > before + 100, 60)
    assert _is_whole(_numbers(taken_over, "counting"))


def test_a_paused_container_goes_on_where_it_stood(taken_over: Daemon) -> None:
    before = _numbers(taken_over, "standing")
    time.sleep(1)
    assert _numbers(taken_over, "standing") == before
    taken_over.must("unpause", "standing")
    until(lambda: len(_numbers(taken_over, "standing")) > len(before) + 5)
    taken_over.must("pause", "standing")
    assert _state(taken_over, "standing") == "paused"
    taken_over.must("unpause", "standing")
    assert _is_whole(_numbers(taken_over, "standing"))


def test_attach_on_a_terminal(taken_over: Daemon) -> None:
    terminal = Terminal(taken_over, "attach", "terminal")
    terminal.type("stty size; echo $((6*7))\n")
    terminal.expect("31 97")
    terminal.expect("42")
    terminal.type("\x10\x11")
    terminal.expect("read escape sequence")
    terminal.end()
    assert _state(taken_over, "terminal") == "running"
    assert "42" in taken_over.must("logs", "terminal")


def test_attach_follows_the_output(taken_over: Daemon) -> None:
    attached = subprocess.Popen(taken_over.command("attach", "counting"), stdout=subprocess.PIPE, text=True)
    assert attached.stdout is not None
    with attached.stdout as lines:
        first = int(lines.readline())
        assert int(lines.readline()) == first + 1
        attached.kill()
        attached.wait()
    assert _state(taken_over, "counting") == "running"


def test_exec_top_and_stats(taken_over: Daemon) -> None:
    done = taken_over.docker(
        "exec", "-i", "-w", "/tmp", "-e", "A=b", "healthy", "sh", "-c", "cat; pwd; echo $A; exit 7", stdin=b"in\n"
    )
    assert (done.returncode, done.stdout) == (7, "in\n/tmp\nb\n")
    # What an exec of before wrote, and the process that it left.
    assert taken_over.must("exec", "healthy", "cat", "/tmp/exec") == "by exec\n"
    assert taken_over.must("top", "healthy").count("sleep 100000") == 1
    stats = json.loads(taken_over.must("stats", "--no-stream", "--format", "{{json .}}", "healthy"))
    assert stats["Name"] == "healthy"
    assert int(stats["PIDs"]) >= 2
    assert not stats["MemUsage"].startswith("0B")


def test_probes_go_on(taken_over: Daemon) -> None:
    health = "{{.State.Health.Status}}"
    assert _state(taken_over, "healthy", health) == "healthy"
    taken_over.must("exec", "healthy", "rm", "/tmp/well")
    until(lambda: _state(taken_over, "healthy", health) == "unhealthy", 60)
    taken_over.must("exec", "healthy", "touch", "/tmp/well")
    until(lambda: _state(taken_over, "healthy", health) == "healthy", 60)


def test_files_come_and_go(taken_over: Daemon, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("copied\n")
    taken_over.must("cp", str(tmp_path / "in"), "healthy:/tmp/in")
    assert taken_over.must("exec", "healthy", "cat", "/tmp/in") == "copied\n"
    command = taken_over.command("cp", "serving:/data/index.html", "-")
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        member = archive.extractfile("index.html")
        assert member is not None
        assert member.read() == b"served\n"
    assert "A /tmp/exec" in taken_over.must("diff", "healthy").splitlines()


def test_extended_attributes_of_a_volume_stay(taken_over: Daemon) -> None:
    file = Path(taken_over.must("volume", "inspect", "-f", "{{.Mountpoint}}", "marked").strip()) / "file"
    os.setxattr(file, "trusted.of-the-host", b"4")
    added = ("trusted.added=5", "user.vch.added=6")
    options = ("--privileged", "-v", "marked:/m", *BIND)
    shown = taken_over.shell(*options, SHELL + attributes("/m/file", *added)).stdout
    assert sorted(shown.split()) == sorted((*_ATTRIBUTES, *added))
    on_host = {f"{name}={os.getxattr(file, name).decode()}" for name in os.listxattr(file)}
    assert on_host == {*_ATTRIBUTES, "trusted.of-the-host=4", "user.vch.trusted.added=5", "user.vch.user.vch.added=6"}
    taken_over.must("volume", "rm", "marked")


def test_ports_and_names_lead_to_it(taken_over: Daemon) -> None:
    assert _fetch(taken_over) == "served\n"
    command = ["run", "--rm", "--network=front", "busybox", "wget", "-qO-", "http://web/"]
    assert taken_over.must(*command) == "served\n"
    taken_over.must("network", "disconnect", "front", "serving")
    taken_over.must("network", "connect", "--alias=again", "front", "serving")
    assert taken_over.must(*command[:-1], "http://again/") == "served\n"


def test_restart_stop_and_remove(taken_over: Daemon) -> None:
    """Last: each starts on the guest of today."""
    taken_over.must("kill", "-s", "USR2", "counting")
    assert taken_over.must("wait", "counting") == "12\n"
    assert _is_whole(_numbers(taken_over, "counting"))
    taken_over.must("restart", "-t", "0", "serving")
    until(lambda: taken_over.docker("exec", "serving", "test", "-e", "/data/index.html").returncode == 0)
    until(lambda: _fetch(taken_over) == "served\n")
    # Its program ends, and its policy starts it again.
    taken_over.must("kill", "-s", "USR1", "healthy")
    until(lambda: taken_over.must("logs", "healthy") == "started\nstarted\n", 60)
    assert _state(taken_over, "healthy", "{{.State.Status}} {{.RestartCount}}") == "running 1"
    taken_over.must("stop", "-t", "1", "terminal")
    assert _state(taken_over, "terminal") == "exited"
    taken_over.must("rm", "-f", "-v", "counting", "standing", "terminal", "serving", "healthy")
    taken_over.must("network", "rm", "front")
    taken_over.must("volume", "rm", "data")
    assert not list((taken_over.root / "data/containers").iterdir())
