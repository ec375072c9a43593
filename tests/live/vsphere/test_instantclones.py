"""The pool on vSphere: InstantClones of a booted parent. The simulator clones the VM, and the stand-in host copies its memory."""

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.images import busybox_layer, image_archive, layer_with
from tests.live.vsphere.daemon import Vsphere, running_vsphere
from tests.live.vsphere.faultproxy import LOSE_ANSWER
from tests.live.waiting import until

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="bridges need the rights of root"),
]


@pytest.fixture(scope="module")
def vsphere() -> Iterator[Vsphere]:
    with tempfile.TemporaryDirectory(prefix="vch-", dir="/tmp") as path:
        Path(path).chmod(0o711)
        with running_vsphere(Path(path), "--vm-pool", "1", "--vm-names", "{name}", faulty=True) as one:
            yield one


@pytest.fixture(autouse=True)
def _tidy(vsphere: Vsphere) -> Iterator[None]:
    """Remove VMs that a failed test left, since these tests count VMs."""
    yield
    if left := vsphere.daemon.must("ps", "-aq").split():
        vsphere.daemon.must("rm", "-f", *left)


def _calls(vsphere: Vsphere) -> list[str]:
    assert vsphere.proxy is not None
    return vsphere.proxy.calls


def _machines(vsphere: Vsphere) -> int:
    return sum(path.endswith(".vmx") for path in vsphere.files())


def test_a_container_gets_a_clone(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    daemon.must("network", "create", "both")
    serve = "test -e /data/index.html || echo here > /data/index.html; exec httpd -f -h /data"
    for name in ("one", "two"):
        daemon.wait_pool()
        before = _calls(vsphere).count("CreateVM_Task")
        daemon.must(
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "both",
            "-p",
            "80",
            "-v",
            f"{name}:/data",
            "busybox",
            "sh",
            "-c",
            serve,
        )
        assert _calls(vsphere).count("CreateVM_Task") == before
    for asks, serves in (("one", "two"), ("two", "one")):
        until(lambda: daemon.docker("exec", asks, "wget", "-qO-", f"http://{serves}/").stdout == "here\n")  # noqa: B023
    # Clones of one parent differ in host name, random numbers and MAC address.
    for what in ("hostname", "head -c 16 /dev/urandom | md5sum", "cat /sys/class/net/eth0/address"):
        said = {daemon.must("exec", name, "sh", "-c", what) for name in ("one", "two")}
        assert len(said) == 2, said
    now = int(daemon.must("exec", "two", "date", "+%s"))
    assert abs(now - time.time()) < 10
    daemon.must("network", "connect", "bridge", "one")
    assert "eth1" in daemon.must("exec", "one", "ls", "/sys/class/net")
    # The container's files survive a restart, which may use a different machine.
    daemon.must("exec", "one", "sh", "-c", "echo kept > /kept")
    daemon.must("restart", "-t", "0", "one")
    assert daemon.must("exec", "one", "cat", "/kept", "/data/index.html") == "kept\nhere\n"
    daemon.must("rm", "-f", "one", "two")
    assert daemon.must("run", "--rm", "-v", "two:/data", "busybox", "cat", "/data/index.html") == "here\n"


def test_more_disks_than_an_adapter_takes(vsphere: Vsphere) -> None:
    daemon = vsphere.daemon
    layers = [busybox_layer(), *(layer_with(f"layer{number}") for number in range(20))]
    daemon.must("load", stdin=image_archive(layers, {"Env": ["PATH=/bin"]}, "high"))
    daemon.wait_pool()
    before = _calls(vsphere).count("CreateVM_Task")
    assert daemon.must("run", "--rm", "high", "cat", "/layer0", "/layer19") == "layer0\nlayer19\n"
    assert _calls(vsphere).count("CreateVM_Task") == before


def test_the_next_vchd_knows_a_clone(vsphere: Vsphere) -> None:
    """It takes over the container's clone. It removes the waiting clone and the parent, and makes new ones."""
    daemon = vsphere.daemon
    daemon.wait_pool()
    daemon.must(
        "run", "-d", "--name", "stays", "busybox", "sh", "-c", "i=0; while sleep 0.2; do echo $i; i=$((i+1)); done"
    )
    daemon.wait_pool()
    daemon.kill()
    time.sleep(1)
    daemon.start()
    daemon.wait_pool()
    assert _machines(vsphere) == 3
    assert daemon.must("exec", "stays", "echo", "there") == "there\n"
    time.sleep(1)
    said = daemon.must("logs", "stays").split()
    assert said == [str(number) for number in range(len(said))]
    daemon.must("rm", "-f", "stays")
    daemon.stop()
    assert _machines(vsphere) == 0
    daemon.start()


def test_a_clone_moves_while_16_mib_go_through(vsphere: Vsphere, tmp_path: Path) -> None:
    """Clones share the URI of the serial port; the concentrator identifies them by the UUID that vCenter chose."""
    daemon = vsphere.daemon
    daemon.wait_pool()
    data = tmp_path / "data"
    data.write_bytes(os.urandom(16 << 20))
    daemon.must("create", "-i", "--name", "mover", "busybox", "cat")
    with (
        open(data, "rb") as source,
        subprocess.Popen(daemon.command("start", "-ai", "mover"), stdin=source, stdout=subprocess.PIPE) as client,
    ):
        assert client.stdout is not None
        came = hashlib.sha256(client.stdout.read(1 << 20))
        for give_up in (False, True, False):
            vsphere.move("mover", give_up=give_up)
            came.update(client.stdout.read(1 << 20))
        came.update(client.stdout.read())
        assert client.wait(60) == 0
    assert came.hexdigest() == hashlib.sha256(data.read_bytes()).hexdigest()
    daemon.must("rm", "mover")


def test_answers_that_are_lost(vsphere: Vsphere) -> None:
    daemon, proxy = vsphere.daemon, vsphere.proxy
    assert proxy is not None
    daemon.wait_pool()
    changes = ("InstantClone_Task", "ReconfigVM_Task", "Destroy_Task", "PowerOffVM_Task")
    proxy.rules += [(method, LOSE_ANSWER) for method in changes]
    before = proxy.calls.count("CreateVM_Task")
    daemon.must("run", "-d", "--name", "lossy", "busybox", "sleep", "1000")
    daemon.wait_pool()
    daemon.must("rm", "-f", "lossy")
    assert daemon.must("run", "--rm", "busybox", "echo", "again") == "again\n"
    assert not [rule for rule in proxy.rules if rule[0] in changes], proxy.rules
    assert proxy.calls.count("CreateVM_Task") == before
    until(lambda: _machines(vsphere) == 2, what="there is not exactly one parent and one waiting clone")


def test_containers_boot_when_there_is_nothing_to_clone(vsphere: Vsphere) -> None:
    daemon, proxy = vsphere.daemon, vsphere.proxy
    assert proxy is not None
    daemon.wait_pool()
    proxy.rules += [("InstantClone_Task", "NotSupported")]
    before = proxy.calls.count("CreateVM_Task")
    assert daemon.must("run", "--rm", "busybox", "echo", "cloned") == "cloned\n"
    until(
        lambda: "the pool could not make a machine" in daemon.log.read_text(),
        what="the log does not report the failed clone",
    )
    assert daemon.must("run", "--rm", "busybox", "echo", "booted") == "booted\n"
    assert proxy.calls.count("CreateVM_Task") == before + 1
    # A parent that cannot be cloned is removed.
    until(lambda: _machines(vsphere) == 0, what="the parent was not removed")
