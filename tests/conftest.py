"""Fixtures that many rooms share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, running_daemon


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket below it."""
    path = Path(tempfile.mkdtemp(prefix="vch-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def host_daemon() -> Iterator[Daemon]:
    """The same on the host's loopback, for what tests serve there."""
    path = Path(tempfile.mkdtemp(prefix="vch-", dir="/tmp"))
    path.chmod(0o711)
    with running_daemon(path, on_host=True) as running:
        yield running
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """A vchd with busybox loaded, shared by all tests that do not break it."""
    path = Path(tempfile.mkdtemp(prefix="vch-", dir="/tmp"))
    path.chmod(0o711)
    with running_daemon(path) as running:
        yield running
    shutil.rmtree(path, ignore_errors=True)
