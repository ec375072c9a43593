"""One vchd with a native buildkitd for all tests of builds."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.builds.machine import machine_daemon
from tests.live.builds.native import BuildDaemon, build_daemon

# Tests outside of the gate: `make test-build`.
_LANE = os.environ.get("VCH_TEST_BUILD")
_IN_MACHINE = _LANE == "machine"
in_lane = pytest.mark.skipif(not _LANE, reason="make test-build")
# The test looks at processes or registries of the host.
on_host = pytest.mark.skipif(_IN_MACHINE, reason="needs a buildkitd on the host")


@pytest.fixture(scope="session")
def builds() -> Iterator[BuildDaemon]:
    """A vchd with busybox in its store; its builds need no VM, or run in its machine with VCH_TEST_BUILD=machine."""
    make = machine_daemon if _IN_MACHINE else build_daemon
    with tempfile.TemporaryDirectory(prefix="vch-") as folder, make(Path(folder)) as daemon:
        yield daemon
