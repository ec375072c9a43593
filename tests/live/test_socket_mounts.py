"""Sockets of the host in containers: connections from real VMs to a server of this process."""

import hashlib
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import PATIENCE, Daemon, on_qemu, running_daemon
from tests.live.echo import Echo
from tests.live.terminal import Terminal

pytestmark = [on_qemu, pytest.mark.skipif(os.geteuid() != 0, reason="virtiofsd needs the rights of root")]

_SIZE = 64 << 20
# tests/live/sockets has this test with 64 MiB.
_NESTED_SIZE = 8 << 20


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("sockets")) as daemon:
        yield daemon


# connect.pl COUNT SOCKET...: copies stdin to each socket and what comes back to stdout. With a COUNT, opens so many connections to
# each socket at once, and counts the lines that come back. It loads few files, since each is a round trip to virtiofsd.
_CLIENT = r"""
use Socket;
my ($count, @paths) = @ARGV;
sub connected { my $path = shift; socket(my $c, AF_UNIX, SOCK_STREAM, 0); connect($c, sockaddr_un($path)) or die "connect: $!\n"; $c }
my @input = $count ? () : <STDIN>;
for my $path (@paths) {
    if ($count) {
        my @open = map { my $c = connected($path); syswrite($c, "$_\n"); $c } 1 .. $count;
        my $lines = 0;
        for my $c (@open) { shutdown($c, SHUT_WR); my @got = <$c>; $lines += @got; close $c }
        print "$lines\n";
        next;
    }
    my $c = connected($path);
    my $pid = fork();
    if (!$pid) { for my $line (@input) { syswrite($c, $line) or exit } shutdown($c, SHUT_WR); exit }
    while (sysread($c, my $data, 65536)) { syswrite(STDOUT, $data) }
    waitpid($pid, 0);
}
"""
_CONNECT = "/usr/bin/perl /f/connect.pl"


class Relayed:
    """A container `relayed` with two mounts of a server's socket and the programs of this host."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self._daemon = daemon
        self.server = Echo(folder / "echo")
        self.files = folder / "files"
        self.files.mkdir()
        (self.files / "connect.pl").write_text(_CLIENT)
        programs = [option for path in ("/usr", "/lib", "/lib64") for option in ("-v", f"{path}:{path}:ro")]
        other = f"type=bind,src={self.server.path},dst=/other/echo,ro"
        sockets = ["-v", f"{self.server.path}:/run/echo", "--mount", other]
        api = daemon.host.removeprefix("unix://")
        options = [*programs, "-v", f"{self.files}:/f:ro", *sockets, "-v", f"{api}:/var/run/docker.sock"]
        daemon.must("run", "-d", "--name", "relayed", *options, "busybox", "sleep", "1000")

    def run(self, command: str, *options: str, seconds: float = PATIENCE) -> str:
        """The output of a shell command in the container."""
        return self._daemon.docker("exec", *options, "relayed", "sh", "-c", command, timeout=seconds, check=True).stdout

    def close(self) -> None:
        self._daemon.docker("rm", "-f", "relayed")
        self.server.close()


@pytest.fixture
def relayed(daemon: Daemon, tmp_path: Path) -> Iterator[Relayed]:
    relayed = Relayed(daemon, tmp_path)
    try:
        yield relayed
    finally:
        relayed.close()


def test_a_socket_of_the_host_in_a_container(daemon: Daemon, relayed: Relayed) -> None:
    path, peers = relayed.server.path, relayed.server.peers
    template = "{{range .Mounts}}{{.Type}} {{.Source}} {{.Destination}} {{.RW}};{{end}}"
    shown = daemon.must("inspect", "-f", template, "relayed")
    assert f"bind {path} /run/echo true;" in shown
    assert f"bind {path} /other/echo false;" in shown
    # Half close, through both mounts, as a user who is not root, whom the server sees.
    command = f"stat -c '%F %a %u %g' /run/echo /other/echo; echo hello | {_CONNECT} 0 /run/echo /other/echo"
    assert relayed.run(command, "-u", "4321").splitlines() == [*["socket 666 1234 5678"] * 2, "hello", "hello"]
    assert peers == [4321, 4321]
    # The API's own socket: the docker command in the container works on its neighbours, and on itself.
    assert relayed.run("/usr/bin/docker ps --format '{{.Names}}'") == "relayed\n"
    nested = "/usr/bin/docker run --rm -i --label by=relayed busybox cat"
    program = Path("/usr/bin/docker").read_bytes()[:_NESTED_SIZE]
    copied = relayed.run(f"head -c {_NESTED_SIZE} /usr/bin/docker | {nested} | sha256sum")
    assert copied.split()[0] == hashlib.sha256(program).hexdigest()
    assert relayed.run("/usr/bin/docker exec relayed echo inner") == "inner\n"
    _follow_and_type(daemon, relayed)
    daemon.kill()
    daemon.start()
    assert relayed.run("/usr/bin/docker ps -q --no-trunc") == daemon.must("ps", "-q", "--no-trunc")
    assert relayed.run(f"echo back | {_CONNECT} 0 /run/echo") == "back\n"
    # The place of the socket is a file of the container, as with Docker.
    assert "A /run/echo" in daemon.must("diff", "relayed")


def _follow_and_type(daemon: Daemon, relayed: Relayed) -> None:
    """Streams that last, and a terminal, through two docker commands."""
    talk = "echo first; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo last"
    daemon.must("run", "-d", "--name", "talker", "busybox", "sh", "-c", talk)
    follow = daemon.command("exec", "relayed", "/usr/bin/docker", "logs", "-f", "talker")
    with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "first\n"
        # With the container its execs are forgotten, as in Docker: the command may no longer learn the exit code.
        daemon.docker("exec", "talker", "touch", "/tmp/go")
        assert following.stdout.read() == "last\n"
    assert following.returncode == 0
    daemon.must("rm", "talker")
    terminal = Terminal(daemon, "exec", "-it", "relayed", "/usr/bin/docker", "exec", "-it", "relayed", "sh")
    terminal.type("stty size; exit 9\r")
    terminal.expect("31 97\r\n")
    assert terminal.end() == 9


def test_a_container_that_sees_only_what_it_made(daemon: Daemon, relayed: Relayed) -> None:
    """The API socket of a scoped container, at Docker's path, which does not exist on this host."""
    programs = [option for path in ("/usr", "/lib", "/lib64") for option in ("-v", f"{path}:{path}:ro")]
    mount = ["-v", "/nowhere/docker.sock:/var/run/docker.sock", "--label", "vch.docker-socket=scoped"]
    daemon.must("run", "-d", "--name", "maker", *programs, *mount, "busybox", "sleep", "1000")
    try:

        def inner(*command: str) -> "subprocess.CompletedProcess[str]":
            return daemon.docker("exec", "maker", "/usr/bin/docker", *command)

        made = inner("run", "-d", "--name", "made", "busybox", "sleep", "1000")
        assert made.returncode == 0, made.stderr
        assert inner("ps", "--format", "{{.Names}}").stdout == "made\n"
        assert "No such container: relayed" in inner("logs", "relayed").stderr
        assert "may not mount paths of the host" in inner("run", "-v", "/etc:/x", "busybox").stderr
        assert inner("rm", "-f", "made").returncode == 0
        assert "relayed" in daemon.must("ps", "--format", "{{.Names}}")
    finally:
        daemon.docker("rm", "-f", "maker", "made")


@pytest.mark.skipif(not os.environ.get("VCH_TEST_SOCKETS"), reason="takes minutes without KVM: make test-sockets")
def test_load_and_life_of_a_relay(daemon: Daemon, relayed: Relayed) -> None:
    server = relayed.server
    (relayed.files / "data").write_bytes(os.urandom(1 << 20) * (_SIZE >> 20))
    digest = hashlib.sha256((relayed.files / "data").read_bytes()).hexdigest()
    # It takes minutes without KVM on a busy host.
    echoed = relayed.run(f"{_CONNECT} 0 /run/echo </f/data | sha256sum", seconds=420)
    assert echoed.split()[0] == digest
    # Connections beyond the limit wait for their turn.
    before = len(server.peers)
    assert relayed.run(f"{_CONNECT} 300 /run/echo") == "300\n"
    assert len(server.peers) == before + 300
    # The source goes away and comes back.
    server.close()
    assert relayed.run(f"echo lost | {_CONNECT} 0 /run/echo; echo done") == "done\n"
    server.open()
    assert relayed.run(f"echo back | {_CONNECT} 0 /run/echo") == "back\n"
    daemon.must("commit", "relayed", "committed")
    assert daemon.docker("cp", "relayed:/run", "-").returncode == 0
    daemon.must("restart", "-t", "0", "relayed")
    assert relayed.run(f"echo new | {_CONNECT} 0 /run/echo") == "new\n"
    # A stopped container's files are read without the source, which is not made.
    daemon.must("kill", "relayed")
    server.close()
    assert daemon.docker("cp", "relayed:/run", "-").returncode == 0
    assert not server.path.exists()


def test_sources_that_are_no_stream_sockets(daemon: Daemon, tmp_path: Path) -> None:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        path = tmp_path / kind.name
        with socket.socket(socket.AF_UNIX, kind) as bound:
            bound.bind(str(path))
            if kind == socket.SOCK_SEQPACKET:
                bound.listen()
            refused = daemon.docker("create", "-v", f"{path}:/s", "busybox")
        assert f"{path} is a socket of type {kind.name}" in refused.stderr
    missing = tmp_path / "missing"
    refused = daemon.docker("create", "--mount", f"type=bind,src={missing},dst=/s", "busybox")
    assert f"bind source path does not exist: {missing}" in refused.stderr
    daemon.must("create", "-v", f"{missing}:/s", "busybox")
    assert stat.S_ISDIR(missing.stat().st_mode)
