"""Images of systems, imported once for each daemon; and which of these tests are left to `make test-nested`."""

import os
from collections.abc import Callable

import pytest

from tests.apps.images import App, imported
from tests.live.daemon import Daemon


@pytest.fixture(scope="session")
def load() -> Callable[[Daemon, App], None]:
    """Import the image of a system into a daemon, once."""
    loaded: set[tuple[str, str]] = set()

    def load_once(daemon: Daemon, app: App) -> None:
        if (daemon.host, app.name) not in loaded:
            imported(daemon, app)
            loaded.add((daemon.host, app.name))

    return load_once


@pytest.fixture
def in_lane() -> None:
    if not os.environ.get("VCH_TEST_NESTED"):
        pytest.skip("takes a minute or more: `make test-nested`")
