"""A vchd and a real dockerd beside each other, for tests that compare the two."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon
from tests.live.images import busybox_archive
from tests.live.oracle import dockerd


def _prepare(docker: list[str]) -> None:
    def run(*words: str, check: bool = True) -> None:
        subprocess.run(
            [*docker, *words], input=busybox_archive() if words == ("load",) else None, capture_output=True, check=check
        )

    run("load")
    network = ("--network", "none")
    run("create", "--name", "made", *network, "busybox", "sleep", "1000")
    run("run", "-d", "--name", "runs", *network, "busybox", "sleep", "100000")
    run("run", "--name", "ended", *network, "busybox", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    run("run", "-d", "--name", "paused", *network, "busybox", "sleep", "100000")
    run("pause", "paused")
    run("run", "-d", "-t", "--name", "term", *network, "busybox", "sleep", "100000")


@pytest.fixture(scope="session")
def sockets() -> Iterator[tuple[str, str]]:
    """(vchd's, dockerd's), prepared alike."""
    folder = Path(tempfile.mkdtemp(prefix="vch-", dir="/tmp"))
    folder.chmod(0o711)
    daemon = Daemon(folder)
    with dockerd(folder, bridge=True) as other:
        if other is None:
            pytest.skip("no dockerd can run here")
        try:
            _prepare(["docker", "-H", f"unix://{other}"])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"dockerd cannot run containers here: {error.stderr!r}")
        daemon.start()
        try:
            _prepare(["docker", "-H", daemon.host])
            yield str(daemon.socket), str(other)
        finally:
            daemon.close()
            names = subprocess.run(["docker", "-H", f"unix://{other}", "ps", "-aq"], capture_output=True, check=False)
            for name in names.stdout.split():
                subprocess.run(["docker", "-H", f"unix://{other}", "rm", "-f", name], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)
