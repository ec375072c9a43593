"""vchd on vSphere, end to end: the docker CLI, real guests behind VMware's simulator, hosts that move machines."""

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.hypervisor.vsphere.spec import uuid_of
from tests.live.terminal import Terminal
from tests.live.vsphere.daemon import Vsphere, running_vsphere

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="bridges need the rights of root"),
]


@pytest.fixture(scope="module", params=["vcenter", "esx"])
def vsphere(request: pytest.FixtureRequest) -> Iterator[Vsphere]:
    with tempfile.TemporaryDirectory(prefix="vch-", dir="/tmp") as path:
        Path(path).chmod(0o711)
        with running_vsphere(Path(path), esx=request.param == "esx") as one:
            yield one


def test_run(vsphere: Vsphere) -> None:
    done = vsphere.daemon.shell("echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
