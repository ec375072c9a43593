"""`make test-floods`: a privileged container floods the tether's port and the console of its machine; its neighbours notice nothing."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, on_qemu, running_daemon
from tests.live.waiting import until
from tests.steps import peak_rss

pytestmark = [
    on_qemu,
    pytest.mark.skipif(not os.environ.get("VCH_TEST_FLOODS"), reason="takes long: make test-floods"),
    pytest.mark.skipif(os.geteuid() != 0, reason="virtiofsd needs the rights of root"),
]

# Perl of this host in a container that sees all processes of its guest.
_ROOT = ["--privileged", "--pid", "host", *(f"-v{path}:{path}:ro" for path in ("/usr", "/lib", "/lib64"))]
# The port can be opened once only: take the tether's own descriptor by pidfd_open(2) and pidfd_getfd(2).
_JUNK = r"""
my $pidfd = syscall(434, 1, 0);
my ($port) = grep { readlink("/proc/1/fd/$_") =~ /vport/ } map { m{(\d+)$} } glob("/proc/1/fd/*");
my $fd = syscall(438, $pidfd, $port + 0, 0);
die "no descriptor: $!\n" if $fd < 0;
open(my $out, ">&=", $fd) or die "open: $!\n";
print "floods\n";
close STDOUT;
my $junk = "BLOCK";
while (1) { syswrite($out, $junk) or select(undef, undef, undef, 0.001) }
"""
_BLOCKS = {
    "noise": r'join("", map { chr(int(rand(256))) } 1 .. 65536)',
    # The magic of a frame at each fourth byte.
    "magic": r'"VCH\x01" x 16384',
}
_MOST_RSS = 400 << 20
_MOST_CONSOLE = 4 << 20


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("floods")) as daemon:
        daemon.must("run", "-d", "--name", "neighbour", "busybox", "sleep", "1000")
        yield daemon


def _neighbour_works(daemon: Daemon) -> None:
    assert daemon.must("exec", "neighbour", "echo", "here") == "here\n"
    assert "neighbour" in daemon.must("ps", "--format", "{{.Names}}").split()


def _consoles(daemon: Daemon) -> list[Path]:
    return list((daemon.root / "exec/machines").glob("*/console.log"))


@pytest.mark.parametrize("block", _BLOCKS.values(), ids=_BLOCKS.keys())
def test_junk_on_the_port_of_the_tether(daemon: Daemon, block: str) -> None:
    script = _JUNK.replace('"BLOCK"', block)
    hung_up = "the guest sends junk to its tether's port"
    before = daemon.log.read_text().count(hung_up)
    daemon.must("run", "-d", "--name", "flood", *_ROOT, "busybox", "/usr/bin/perl", "-e", script)
    try:
        ended = False
        while not ended:
            _neighbour_works(daemon)
            ended = daemon.must("inspect", "-f", "{{.State.Running}}", "flood") == "false\n"
        state = json.loads(daemon.must("inspect", "-f", "{{json .State}}", "flood"))
        assert state["ExitCode"] != 0
        assert daemon.log.read_text().count(hung_up) == before + 1
    finally:
        daemon.must("rm", "-f", "flood")
    _neighbour_works(daemon)
    assert peak_rss(daemon.pid) < _MOST_RSS


def test_a_flooded_console(daemon: Daemon) -> None:
    flood = "mknod /console c 4 64; exec yes 0123456789012345678901234567890123456789 >/console"
    daemon.must("run", "-d", "--name", "flood", "--privileged", "busybox", "sh", "-c", flood)
    try:
        until(lambda: any(path.stat().st_size > _MOST_CONSOLE for path in _consoles(daemon)), 300)
        console = max(_consoles(daemon), key=lambda path: path.stat().st_size)
        size = console.stat().st_size
        for _ in range(10):
            _neighbour_works(daemon)
            assert console.stat().st_blocks * 512 < _MOST_CONSOLE
        assert console.stat().st_size > size
    finally:
        daemon.must("rm", "-f", "flood")
    assert not console.exists()
    _neighbour_works(daemon)
    assert peak_rss(daemon.pid) < _MOST_RSS
