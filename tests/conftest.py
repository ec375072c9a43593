"""Fixtures that many rooms share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, running_daemon

_LIVE = Path(__file__).with_name("live")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make check` leaves out: all of tests/live, and each test that uses the simulator's fixture."""
    # Last come those whose programs take longest to build; the gate builds them beside the tests, in this order.
    items.sort(key=_build_turn)
    for item in items:
        if _LIVE in item.path.parents:
            item.add_marker(pytest.mark.live)
        if "simulator" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.simulator)


def _build_turn(item: pytest.Item) -> int:
    path = item.path.relative_to(_LIVE) if _LIVE in item.path.parents else Path()
    return 2 if path.name == "test_compose.py" else 1 if "build" in str(path) else 0


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket below it."""
    path = Path(tempfile.mkdtemp(prefix="vch-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def host_daemon() -> Iterator[Daemon]:
    """A vchd with user-mode networking, whose containers reach what a test serves on the host's loopback."""
    path = Path(tempfile.mkdtemp(prefix="vch-", dir="/tmp"))
    path.chmod(0o711)
    with running_daemon(path, on_host=True) as running:
        yield running
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """A vchd with busybox loaded, shared by all tests that do not break it. A test removes the containers that it made."""
    path = Path(tempfile.mkdtemp(prefix="vch-", dir="/tmp"))
    path.chmod(0o711)
    with running_daemon(path) as running:
        yield running
    shutil.rmtree(path, ignore_errors=True)
