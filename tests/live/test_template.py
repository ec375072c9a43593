"""Clones of one template differ in everything that must differ."""

import concurrent.futures
import time

import pytest

from tests.archives import Tar
from tests.live.daemon import FLAGS, Daemon
from tests.live.images import busybox_layer, image_archive

pytestmark = pytest.mark.live

_SCRIPT = """
od -An -tx1 -N16 /dev/urandom | tr -d ' '
cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id
grep stack /proc/self/maps | cut -d- -f1
hostname
cat /sys/class/net/eth0/address
ip -4 addr show eth0 | grep -o 'inet [0-9.]*'
date +%s
"""


def test_twenty_clones_differ(daemon: Daemon) -> None:
    before = time.time()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        outputs = list(
            pool.map(lambda _: daemon.must("run", "--rm", "busybox", "sh", "-c", _SCRIPT).split("\n"), range(20))
        )
    after = time.time()
    for line, name in enumerate(("random", "uuid", "boot id", "stack", "host name", "mac", "address")):
        if name != "boot id":
            values = [output[line] for output in outputs]
            assert all(values), name
            assert len(set(values)) == 20, name
    # The clock is the host's, not the template's.
    assert all(before - 2 <= int(output[7]) <= after + 2 for output in outputs)


@pytest.mark.skipif("off" in FLAGS, reason="templates are switched off")
def test_the_trace_of_a_start_shows_the_restore(daemon: Daemon) -> None:
    deadline = time.monotonic() + 120
    while True:
        daemon.must("run", "--name", "traced", "busybox", "true")
        timeline = daemon.vch("trace", "traced")
        daemon.must("rm", "traced")
        if "state restored" in timeline:
            break
        assert time.monotonic() < deadline, timeline
    names = [line.split(maxsplit=2)[2] for line in timeline.splitlines()]
    assert names.index("QEMU launched") < names.index("guest: mounted rootfs") < names.index("guest: program runs")


@pytest.mark.skipif("off" in FLAGS, reason="templates are switched off")
def test_vms_without_a_nic_have_a_template(daemon: Daemon) -> None:
    deadline = time.monotonic() + 120
    while True:
        daemon.must("run", "--name", "alone", "--network", "none", "busybox", "true")
        timeline = daemon.vch("trace", "alone")
        daemon.must("rm", "alone")
        if "state restored" in timeline:
            break
        assert time.monotonic() < deadline, timeline
    script = "ls /sys/class/net; sed -n 's/^nameserver 127.*/loopback/p; s/^nameserver .*/server/p' /etc/resolv.conf"
    nics, *servers = daemon.must("run", "--rm", "--network", "none", "busybox", "sh", "-c", script).split()
    # As in moby, the servers of the host that are not the host's own loopback.
    assert (nics, set(servers)) == ("lo", {"server"})


def test_more_layers_than_a_template_has_disks(daemon: Daemon) -> None:
    layers = [Tar().add(f"layer{number}", b"%d" % number).bytes() for number in range(20)]
    archive = image_archive([busybox_layer(), *layers], {"Cmd": ["sh"], "Env": ["PATH=/bin"]}, "many:latest")
    daemon.must("load", stdin=archive)
    deadline = time.monotonic() + 120
    while True:
        said = daemon.must("run", "--name", "layered", "many", "sh", "-c", "cat /layer*; echo; ls / | grep -c layer")
        timeline = daemon.vch("trace", "layered")
        daemon.must("rm", "layered")
        # The shell sorts the names as text.
        assert said == "".join(sorted(map(str, range(20)))) + "\n20\n"
        if "off" in FLAGS or "state restored" in timeline or "taken from the pool" in timeline:
            break
        assert time.monotonic() < deadline, timeline
    daemon.must("rmi", "many")
