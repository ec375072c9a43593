"""A vchd whose builds run in its own builder machine."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from build.builder.image import build
from tests.live import gotools
from tests.live.builds.native import BuildDaemon
from tests.live.daemon import running_daemon

_CACHE = Path.home() / ".cache/vch"
NAME = "vch-builder"


@contextlib.contextmanager
def machine_daemon(root: Path, *flags: str) -> Iterator[BuildDaemon]:
    """A started vchd with busybox and the builder's image loaded. No builder runs yet."""
    if gotools.buildx() is None:
        pytest.skip("buildx needs Go to build it with")
    contexts = root / "contexts"
    contexts.mkdir()
    (root / "vchd").mkdir()
    with running_daemon(root / "vchd", *flags) as daemon:
        daemon.must("load", "-i", str(build(_CACHE)))
        yield BuildDaemon(daemon, contexts, daemon.log)


def address_of(builds: BuildDaemon) -> str:
    """The address of the running builder on its own network."""
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return builds.daemon.must("inspect", "-f", template, NAME).strip()
