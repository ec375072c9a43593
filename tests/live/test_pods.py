"""Containers that share a machine, with real VMs: what they share, and how each of them ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, on_qemu, running_daemon

pytestmark = [pytest.mark.live, on_qemu]

_SERVER = "mkdir -p /www && echo shared > /www/index.html && exec httpd -f -p 8080 -h /www"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root: Path = tmp_path_factory.mktemp("pods")
    root.parent.chmod(0o711)
    with running_daemon(root) as daemon:
        yield daemon


def _machines(daemon: Daemon) -> int:
    """The number of VMs that belong to containers."""
    names = {path.name for path in (daemon.root / "exec/machines").iterdir()}
    return len(names & set(daemon.must("ps", "-aq", "--no-trunc").split()))


def test_a_sidecar_from_its_start_to_its_end(daemon: Daemon) -> None:
    daemon.must("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "memory")
    daemon.must(
        "run",
        "-d",
        "--name",
        "web",
        "--ipc",
        "shareable",
        "-v",
        "shared:/s",
        "-v",
        "memory:/m",
        "-p",
        "18080:8080",
        "busybox",
        "sh",
        "-c",
        _SERVER,
    )
    sidecar = ("--network", "container:web", "--pid", "container:web", "--ipc", "container:web")
    shown = daemon.must(
        "run",
        "--rm",
        *sidecar,
        "busybox",
        "sh",
        "-c",
        "wget -qO- 127.0.0.1:8080; hostname; ps; echo kept > /dev/shm/note",
    )
    assert "shared" in shown
    assert daemon.must("inspect", "web", "--format", "{{.Config.Hostname}}").strip() in shown
    assert "httpd -f" in shown
    assert daemon.must("exec", "web", "cat", "/dev/shm/note") == "kept\n"
    assert _machines(daemon) == 1
    # The sidecar's own files, logs, exec and limits.
    daemon.must(
        "run",
        "-d",
        "--name",
        "side",
        "--network",
        "container:web",
        "-v",
        "shared:/s",
        "-v",
        "memory:/m",
        "busybox",
        "sh",
        "-c",
        "echo said; sleep 1000",
    )
    assert daemon.must("exec", "side", "sh", "-c", "ls /www 2>&1 || wget -qO- 127.0.0.1:8080").endswith("shared\n")
    assert daemon.must("logs", "side") == "said\n"
    # Both see one file system, so a socket of one container in the volume is a socket for the other.
    daemon.must("exec", "web", "touch", "/s/note", "/m/note")
    inodes = {daemon.must("exec", name, "stat", "-c", "%d %i", "/s/note", "/m/note") for name in ("web", "side")}
    assert len(inodes) == 1
    daemon.must("restart", "-t", "0", "side")
    assert daemon.must("exec", "side", "wget", "-qO-", "127.0.0.1:8080") == "shared\n"
    # The daemon is killed, and both containers run on.
    daemon.kill()
    daemon.start()
    assert daemon.must("exec", "side", "wget", "-qO-", "127.0.0.1:8080") == "shared\n"
    # The owner of the network stops first: the sidecar keeps running, with its loopback only.
    daemon.must("stop", "-t", "0", "web")
    assert "eth0" not in daemon.must("exec", "side", "ip", "-o", "link")
    daemon.must("start", "web")
    assert daemon.must("exec", "web", "wget", "-qO-", "127.0.0.1:8080") == "shared\n"
    # The tmpfs volume is there as long as any container of the machine has it.
    assert daemon.must("exec", "web", "ls", "/m") == "note\n"
    assert daemon.must("inspect", "side", "--format", "{{.State.Running}}") == "true\n"
    daemon.must("rm", "-f", "side", "web")
    assert list((daemon.root / "exec/machines").glob("[0-9a-f]" * 12 + "*")) == []
