"""Clients of testcontainers are killed, and Ryuk removes what they have made, and nothing else."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.clients.cache import prepared
from tests.clients.test_libraries import NPM
from tests.live.daemon import Daemon
from tests.live.ryuk import load_ryuk, made, ryuks, wait_reaped
from tests.live.waiting import until
from tests.steps import ROOT


@contextlib.contextmanager
def killed_client(daemon: Daemon, folder: Path, *command: str) -> Iterator[None]:
    """A client that has made its objects. It is killed at the end of the block."""
    env = os.environ | {"DOCKER_HOST": daemon.host, "RYUK_RECONNECTION_TIMEOUT": "1s"}
    with subprocess.Popen(
        [*daemon.inside(), *command], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as client:
        try:
            assert client.stdout is not None
            assert client.stderr is not None
            assert client.stdout.readline() == "ready\n", client.stderr.read()
            yield
        finally:
            client.kill()


def _is_reaped(daemon: Daemon, folder: Path, *command: str) -> None:
    until(lambda: not ryuks(daemon), 60, "Ryuk of another test has not ended")
    neighbour = daemon.must("run", "-d", "-v", "neighbour:/v", "busybox", "sleep", "1000").strip()
    try:
        with killed_client(daemon, folder, *command):
            assert made(daemon) == [1, 1, 1]
            assert len(ryuks(daemon).split()) == 1
        wait_reaped(daemon)
        assert neighbour in daemon.must("ps", "-q", "--no-trunc").split()
        assert "neighbour" in daemon.must("volume", "ls", "-q").split()
    finally:
        daemon.docker("rm", "-f", neighbour)
        daemon.docker("volume", "rm", "neighbour")


def test_ryuk_of_testcontainers_for_python(daemon: Daemon) -> None:
    load_ryuk(daemon, "0.8.1")
    _is_reaped(daemon, ROOT, sys.executable, "-m", "tests.clients.leaving")


def test_ryuk_of_testcontainers_for_node(daemon: Daemon) -> None:
    load_ryuk(daemon, "0.12.0")
    _is_reaped(daemon, prepared("node", NPM), "node", "leave.mjs")
