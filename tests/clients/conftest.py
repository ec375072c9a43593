"""One vchd for all clients."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, running_daemon


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """A vchd with busybox. Clients run in its network namespace, so that they reach the ports that it publishes."""
    with tempfile.TemporaryDirectory(prefix="vch-", dir="/tmp") as folder, running_daemon(Path(folder)) as running:
        yield running
