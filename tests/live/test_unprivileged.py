"""vchd as an ordinary user of the host, without capabilities."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon
from tests.live.programs import free_port
from tests.live.waiting import until

_UID = 61234


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    # An ordinary user cannot enter pytest's folders or the guest's, which belong to root.
    root = Path(tempfile.mkdtemp(prefix="vch-user-", dir="/tmp"))
    guest = root / "guest"
    shutil.copytree(Path(sys.prefix) / "share/vch/guest", guest)
    os.chown(root, _UID, _UID)
    daemon = Daemon(root, uid=_UID)
    daemon.start("--guest", str(guest))
    try:
        daemon.load_busybox()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(root)


def test_vchd_has_no_capabilities(daemon: Daemon) -> None:
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    assert f"Uid:\t{_UID}\t{_UID}" in status
    assert "CapEff:\t0000000000000000" in status


def test_containers_run_and_missing_features_are_reported(daemon: Daemon) -> None:
    assert daemon.shell("id -u; hostname -i").stdout.split() == ["0", "172.17.0.2"]
    info = json.loads(daemon.must("info", "--format", "{{json .}}"))
    assert info["Warnings"] == [
        "WARNING: user-mode networking: containers cannot reach each other, and networks cannot be created"
    ]
    refused = daemon.docker("network", "create", "other").stderr
    assert "networks need bridges, and bridges need the rights of root" in refused
    # A VM may be killed, and vchd, too.
    daemon.must("run", "-d", "--name", "kept", "busybox", "sh", "-c", "while sleep 0.2; do date; done")
    daemon.kill()
    daemon.start("--guest", str(daemon.root / "guest"))
    assert daemon.must("exec", "kept", "echo", "still") == "still\n"
    daemon.must("rm", "-f", "kept")


def test_other_users_cannot_read_container_data(daemon: Daemon) -> None:
    daemon.must("create", "--name", "secret", "-e", "PASSWORD=x", "busybox")
    for path in (daemon.root / "data").rglob("*"):
        assert path.is_symlink() or not path.stat().st_mode & 0o077 or not path.parent.stat().st_mode & 0o011, path
    daemon.must("rm", "secret")


def test_a_volume_is_a_disk_of_one_vm_at_a_time(daemon: Daemon) -> None:
    daemon.must(
        "run", "-d", "--name", "first", "-v", "disk:/data", "busybox", "sh", "-c", "echo kept > /data/x; sleep 1000"
    )
    until(lambda: daemon.docker("exec", "first", "cat", "/data/x").stdout == "kept\n")
    done = daemon.docker("run", "--rm", "-v", "disk:/data", "busybox", "cat", "/data/x")
    assert done.returncode == 125
    assert "volume disk" in done.stderr
    daemon.must("stop", "-t", "0", "first")
    assert daemon.shell("-v", "disk:/data:ro", "cat /data/x; touch /data/y 2>&1").stdout.splitlines() == [
        "kept",
        "touch: /data/y: Read-only file system",
    ]
    # A volume receives the image's files at its path.
    assert "sh" in daemon.shell("-v", "copied:/bin", "ls /bin").stdout.split()
    assert "virtiofsd needs the rights of root" in daemon.shell("-v", "/tmp:/host", "true").stderr
    daemon.must("rm", "first")
    daemon.must("volume", "rm", "disk", "copied")


def test_ports_are_published(daemon: Daemon) -> None:
    port, privileged = free_port(), "80"
    serve = "mkdir /www; echo {0} > /www/index.html; exec httpd -f -p {1} -h /www"
    daemon.must("run", "-d", "--name", "web", "-p", f"{port}:80", "busybox", "sh", "-c", serve.format("web", 80))
    until(lambda: _get(f"http://127.0.0.1:{port}/") == "web\n")
    assert _get(f"http://[::1]:{port}/") == "web\n"
    assert "permission denied" in daemon.shell("-p", f"{privileged}:80", "true").stderr
    # `--network host`: every port at which the container listens.
    other = free_port()
    daemon.must(
        "run", "-d", "--name", "hosted", "--network", "host", "busybox", "sh", "-c", serve.format("host", other)
    )
    until(lambda: _get(f"http://127.0.0.1:{other}/") == "host\n")
    daemon.kill()
    daemon.start("--guest", str(daemon.root / "guest"))
    assert _get(f"http://127.0.0.1:{port}/") == "web\n"
    assert _get(f"http://127.0.0.1:{other}/") == "host\n"
    daemon.must("exec", "hosted", "killall", "-STOP", "httpd")
    daemon.must("rm", "-f", "web", "hosted")
    assert not _get(f"http://127.0.0.1:{other}/")


def _get(url: str) -> str:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())
    return ""
