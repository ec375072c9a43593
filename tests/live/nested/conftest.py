"""A vchd with bridges for the systems inside its containers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.apps.images import App, imported
from tests.live.daemon import Daemon


@pytest.fixture(scope="session")
def load(daemon: Daemon) -> Callable[[App], None]:
    """Import the image of a system into the daemon, once."""
    loaded: set[str] = set()

    def load_once(app: App) -> None:
        if app.name not in loaded:
            imported(daemon, app)
            loaded.add(app.name)

    return load_once
