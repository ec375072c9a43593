"""Containers that share a VM on vSphere: the stand-in host plugs the disks of a sidecar into the VM that runs."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.vsphere.daemon import Vsphere, running_vsphere
from tests.live.waiting import until

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get("VCH_TEST_SHARED"), reason="takes a minute without KVM: make test-shared"),
    pytest.mark.skipif(os.geteuid() != 0, reason="bridges need the rights of root"),
]

_SERVER = "mkdir /www; echo shared > /www/index.html; exec httpd -f -p 80 -h /www"
_FETCH = ("wget", "-qO-", "http://127.0.0.1/")


@pytest.fixture(scope="module")
def vsphere() -> Iterator[Vsphere]:
    with tempfile.TemporaryDirectory(prefix="vch-", dir="/tmp") as path:
        Path(path).chmod(0o711)
        with running_vsphere(Path(path)) as one:
            yield one


def _status(vsphere: Vsphere, name: str) -> tuple[str, int]:
    state = json.loads(vsphere.daemon.must("inspect", name, "--format", "{{json .State}}"))
    return state["Status"], state["ExitCode"]


def _machines(vsphere: Vsphere) -> int:
    return sum(path.endswith(".vmx") for path in vsphere.files())


def test_a_sidecar_from_its_start_to_its_end(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    daemon.must("run", "-d", "--name", "web", "busybox", "sh", "-c", _SERVER)
    before = _machines(vsphere)
    joins = ("--network", "container:web", "--pid", "container:web")
    assert "httpd -f" in daemon.must("run", "--rm", *joins, "busybox", "ps")
    # It brings two disks: its own one, and that of its volume.
    script = "echo kept > /kept; echo said; exec sleep 1000"
    daemon.must(
        "run", "-d", "--name", "side", "--network", "container:web", "-v", "data:/d", "busybox", "sh", "-c", script
    )
    assert _machines(vsphere) == before
    assert daemon.must("exec", "side", *_FETCH) == "shared\n"
    assert daemon.must("logs", "side") == "said\n"
    daemon.must("exec", "side", "sh", "-c", "echo note > /d/note")
    # The sidecar alone stops, starts and restarts.
    daemon.must("stop", "-t", "0", "side")
    assert _status(vsphere, "side") == ("exited", 137)
    assert daemon.must("exec", "web", *_FETCH) == "shared\n"
    daemon.must("start", "side")
    daemon.must("restart", "-t", "0", "side")
    assert daemon.must("exec", "side", "cat", "/kept", "/d/note") == "kept\nnote\n"
    # The next vchd finds both containers in the VM.
    daemon.kill()
    daemon.start()
    assert daemon.must("exec", "side", *_FETCH) == "shared\n"
    # The owner stops first: the sidecar runs on, with its loopback only, and the owner comes back into the VM.
    daemon.must("stop", "-t", "0", "web")
    assert _status(vsphere, "web") == ("exited", 137)
    assert daemon.must("exec", "side", "ls", "/sys/class/net").split() == ["lo"]
    daemon.must("start", "web")
    assert daemon.must("exec", "web", *_FETCH) == "shared\n"
    assert _machines(vsphere) == before
    daemon.must("rm", "-f", "web", "side")
    until(lambda: _machines(vsphere) == before - 1, what="the VM is still there")
    # The volume's disk has left the VM with the sidecar.
    assert daemon.must("run", "--rm", "-v", "data:/d", "busybox", "cat", "/d/note") == "note\n"
