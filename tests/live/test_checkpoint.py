"""Checkpoints: a container goes on where it was, memory and disk; and what is refused."""

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, running_daemon

pytestmark = pytest.mark.live

# Counts in memory and on disk: the two differ if memory and disk of a checkpoint are of different moments.
_COUNTER = (
    "i=0; while true; do i=$((i+1)); echo $i > /count; [ $(cat /count) = $i ] || echo torn; echo $i; sleep 0.05; done"
)


def _numbers(daemon: Daemon, name: str) -> list[int]:
    lines = daemon.must("logs", name).split("\n")[:-1]
    assert "torn" not in lines
    return [int(line) for line in lines]


def _wait_for(daemon: Daemon, name: str, count: int) -> list[int]:
    deadline = time.monotonic() + 60
    while len(numbers := _numbers(daemon, name)) < count:
        assert time.monotonic() < deadline, numbers
        time.sleep(0.1)
    return numbers


@pytest.fixture
def counter(daemon: Daemon) -> Iterator[str]:
    daemon.must("run", "-d", "--name", "counted", "busybox", "sh", "-c", _COUNTER)
    yield "counted"
    daemon.must("rm", "-f", "counted")


def test_a_counter_goes_on_from_its_checkpoint(daemon: Daemon, counter: str) -> None:
    seen = _wait_for(daemon, counter, 20)
    attached = subprocess.Popen(
        daemon.command("attach", "--no-stdin", counter), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    time.sleep(0.5)
    daemon.must("checkpoint", "create", counter, "first")
    attached.communicate(timeout=60)
    state = json.loads(daemon.must("inspect", counter, "--format", "{{json .State}}"))
    assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", 137, "")
    assert daemon.must("checkpoint", "ls", counter).split() == ["CHECKPOINT", "NAME", "first"]
    stopped = _numbers(daemon, counter)
    assert len(stopped) >= len(seen)
    time.sleep(2)
    daemon.must("start", "--checkpoint", "first", counter)
    numbers = _wait_for(daemon, counter, len(stopped) + 20)
    # No number is lost or repeated, and the count did not start again.
    assert numbers == list(range(1, len(numbers) + 1))
    # The guest's clock is the host's, not the checkpoint's.
    lines = daemon.must("logs", "-t", counter).split("\n")
    times = [line.split()[0] for line in lines if line]
    assert times == sorted(times)
    began = time.time()
    now = int(daemon.must("exec", counter, "date", "+%s"))
    assert began - 3 <= now <= time.time() + 1
    assert _seconds(times[-1]) <= time.time() + 1
    # A second start from the same checkpoint.
    daemon.must("kill", counter)
    before = len(_numbers(daemon, counter))
    daemon.must("start", "--checkpoint", "first", counter)
    again = _wait_for(daemon, counter, before + 10)[before:]
    assert again[0] == len(stopped) + 1
    daemon.must("checkpoint", "rm", counter, "first")
    assert daemon.must("checkpoint", "ls", counter).split() == ["CHECKPOINT", "NAME"]


def _seconds(text: str) -> float:
    return float(subprocess.run(["date", "-d", text, "+%s.%N"], capture_output=True, text=True, check=True).stdout)


def test_a_checkpoint_starts_after_a_restart_of_vchd(short_path: Path) -> None:
    with running_daemon(short_path) as daemon:
        daemon.must("run", "-d", "--name", "counted", "busybox", "sh", "-c", _COUNTER)
        _wait_for(daemon, "counted", 10)
        place = short_path / "kept"
        daemon.must("checkpoint", "create", "--leave-running", "--checkpoint-dir", str(place), "counted", "warm")
        kept = len(_numbers(daemon, "counted"))
        assert "warm" in daemon.must("checkpoint", "ls", "--checkpoint-dir", str(place), "counted")
        numbers = _wait_for(daemon, "counted", kept + 20)
        assert numbers == list(range(1, len(numbers) + 1))
        daemon.kill()
        daemon.start()
        daemon.must("kill", "counted")
        before = len(_numbers(daemon, "counted"))
        daemon.must("start", "--checkpoint", "warm", "--checkpoint-dir", str(place), "counted")
        again = _wait_for(daemon, "counted", before + 10)[before:]
        assert again == list(range(again[0], again[0] + len(again)))
        assert again[0] <= kept + 1


def test_connections_to_the_outside_end(host_daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        gateway = "$(ip route | awk '/default/ {print $3}')"
        script = f"mkfifo /open; sleep 1000 > /open & nc {gateway} {port} < /open; echo nc ended with $?; sleep 1000"
        host_daemon.must("run", "-d", "--name", "talks", "busybox", "sh", "-c", script)
        server.settimeout(60)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(30)
            host_daemon.must("checkpoint", "create", "talks", "mid")
            assert connection.recv(1) == b""  # not a reset: the peer hears of a proper end
        host_daemon.must("start", "--checkpoint", "mid", "talks")
        deadline = time.monotonic() + 60
        while "nc ended" not in host_daemon.must("logs", "talks"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    host_daemon.must("rm", "-f", "talks")


def test_refusals_have_dockerds_texts(daemon: Daemon, counter: str) -> None:
    daemon.must("create", "--name", "still", "busybox", "true")
    create = {"CheckpointID": "one", "Exit": False}
    at, still = f"/v1.41/containers/{counter}/checkpoints", "/v1.41/containers/still/checkpoints"
    assert daemon.request("POST", still, create) == (500, "Container still not running")
    assert daemon.request("POST", "/v1.41/containers/nobody/checkpoints", create)[0] == 404
    for bad in ("../up", "", "a", "a/b", ".hidden", "a\0b"):
        code, text = daemon.request("POST", at, {"CheckpointID": bad})
        assert (code, text.startswith("Invalid checkpoint ID")) == (500, True), (bad, text)
    assert daemon.request("POST", at, {"CheckpointID": 7})[0] == 400
    assert daemon.request("POST", at, {"CheckpointID": "one", "CheckpointDir": "relative/path"})[0] == 400
    assert daemon.request("POST", at, {"CheckpointID": "one", "CheckpointDir": "/tmp/../etc"})[0] == 400
    assert daemon.request("POST", at, create)[0] == 201
    assert daemon.request("POST", at, create) == (
        500,
        f"cannot checkpoint container {counter}: checkpoint with name one already exists for container {counter}",
    )
    assert daemon.request("DELETE", f"{at}/none") == (500, f"checkpoint none does not exist for container {counter}")
    assert daemon.request("DELETE", f"{at}/..")[0] in (404, 500)
    assert daemon.request("GET", f"{at}?dir=/nowhere/at/all")[0] == 404
    assert daemon.request("POST", "/v1.41/containers/still/start?checkpoint=none") == (
        500,
        "checkpoint none does not exist for container /still",
    )
    assert daemon.request("POST", "/v1.41/containers/still/start?checkpoint=../x")[0] == 500
    assert daemon.request("POST", f"/v1.41/containers/{counter}/start?checkpoint=one")[0] == 304
    # A checkpoint belongs to one container.
    folder = daemon.root / "data/containers" / daemon.must("inspect", counter, "--format", "{{.Id}}").strip()
    code, text = daemon.request(
        "POST", f"/v1.41/containers/still/start?checkpoint=one&checkpoint-dir={folder}/checkpoints"
    )
    assert (code, text) == (500, "checkpoint one does not exist for container /still")
    daemon.must("rm", "still")


@pytest.mark.parametrize("damage", ["flip", "cut", "swap", "disk", "manifest", "missing", "foreign", "link"])
def test_a_damaged_checkpoint_is_an_error_and_the_container_as_before(
    daemon: Daemon, damage: str, kept: tuple[str, Path]
) -> None:
    name, source = kept
    folder = source.with_name(f"bad{damage}")
    subprocess.run(["cp", "-a", "--sparse=always", source, folder], check=True)
    machine = folder / "machine"
    state, disk = machine / "state", machine / "disk0"
    match damage:
        case "flip":
            with open(state, "r+b") as file:
                file.seek(1 << 20)
                byte = file.read(1)
                file.seek(1 << 20)
                file.write(bytes([byte[0] ^ 1]))
        case "cut":
            os.truncate(state, 100_000)
        case "swap":
            state.rename(machine / "x")
            disk.rename(state)
            (machine / "x").rename(disk)
        case "disk":
            os.truncate(disk, 1 << 20)
        case "manifest":
            (machine / "manifest.json").write_text('{"facts": "x"}')
        case "missing":
            state.unlink()
        case "foreign":
            os.chown(state, 12345, -1)
        case "link":
            state.rename(daemon.root / "elsewhere")
            state.symlink_to(daemon.root / "elsewhere")
    result = daemon.docker("start", "--checkpoint", folder.name, name)
    assert result.returncode
    assert "damaged" in result.stderr, result.stderr
    assert daemon.must("inspect", name, "--format", "{{.State.Status}}").strip() == "exited"
    assert not list((daemon.root / "exec/machines").glob(f"{_full_id(daemon, name)}*"))
    daemon.must("checkpoint", "rm", name, folder.name)


def test_an_intact_checkpoint_starts_after_damaged_ones(daemon: Daemon, kept: tuple[str, Path]) -> None:
    name, _ = kept
    before = len(_numbers(daemon, name))
    daemon.must("start", "--checkpoint", "good", name)
    _wait_for(daemon, name, before + 5)
    daemon.must("kill", name)


def _full_id(daemon: Daemon, name: str) -> str:
    return daemon.must("inspect", name, "--format", "{{.Id}}").strip()


@pytest.fixture(scope="module")
def kept(daemon: Daemon) -> Iterator[tuple[str, Path]]:
    """A stopped container with a checkpoint, and where that is."""
    daemon.must("run", "-d", "--name", "keeper", "busybox", "sh", "-c", _COUNTER)
    _wait_for(daemon, "keeper", 5)
    daemon.must("checkpoint", "create", "keeper", "good")
    yield "keeper", daemon.root / "data/containers" / _full_id(daemon, "keeper") / "checkpoints/good"
    daemon.must("rm", "-f", "keeper")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a small file system of its own")
def test_a_full_disk_leaves_the_container_running_and_nothing_else(
    daemon: Daemon, counter: str, short_path: Path
) -> None:
    small = short_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "small", small], check=True)
    try:
        before = _wait_for(daemon, counter, 5)
        result = daemon.docker("checkpoint", "create", "--checkpoint-dir", str(small), counter, "big")
        assert result.returncode
        assert f"Cannot checkpoint container {counter}" in result.stderr
        assert list(small.iterdir()) == []
        numbers = _wait_for(daemon, counter, len(before) + 20)
        assert numbers == list(range(1, len(numbers) + 1))
        assert re.search("running", daemon.must("inspect", counter, "--format", "{{.State.Status}}"))
    finally:
        subprocess.run(["umount", small], check=True)
