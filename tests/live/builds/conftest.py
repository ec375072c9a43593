"""One vchd with a native buildkitd for all tests of builds."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.builds.native import BuildDaemon, build_daemon

# Tests outside of the gate: `make test-build`.
in_lane = pytest.mark.skipif(not os.environ.get("VCH_TEST_BUILD"), reason="make test-build")


@pytest.fixture(scope="session")
def builds() -> Iterator[BuildDaemon]:
    """A vchd without VMs, with busybox in its store."""
    with tempfile.TemporaryDirectory(prefix="vch-") as folder, build_daemon(Path(folder)) as daemon:
        yield daemon
