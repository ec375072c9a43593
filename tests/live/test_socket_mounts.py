"""Sockets of the host in containers: connections from real VMs to a server of this process."""

import hashlib
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, on_qemu, running_daemon

pytestmark = [on_qemu, pytest.mark.skipif(os.geteuid() != 0, reason="virtiofsd needs the rights of root")]

_SIZE = 64 << 20


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("sockets")) as daemon:
        yield daemon


class Echo:
    """A server at a unix socket of this host that echoes each connection until its half close. `peers` are the clients' uids."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.peers: list[int] = []
        self.open()

    def open(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        os.chmod(self.path, 0o666)
        os.chown(self.path, 1234, 5678)
        self._listener.listen(512)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Idempotent."""
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self.path.unlink(missing_ok=True)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            self.peers.append(int.from_bytes(credentials[4:8], "little"))
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    @staticmethod
    def _echo(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)


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

    def run(self, command: str, *options: str) -> str:
        """The output of a shell command in the container."""
        return self._daemon.must("exec", *options, "relayed", "sh", "-c", command)

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
    assert relayed.run("echo nested | /usr/bin/docker run --rm -i --label by=relayed busybox cat") == "nested\n"
    assert relayed.run("/usr/bin/docker exec relayed echo inner") == "inner\n"
    daemon.kill()
    daemon.start()
    assert relayed.run("/usr/bin/docker ps -q --no-trunc") == daemon.must("ps", "-q", "--no-trunc")
    assert relayed.run(f"echo back | {_CONNECT} 0 /run/echo") == "back\n"
    # The place of the socket is a file of the container, as with Docker.
    assert "A /run/echo" in daemon.must("diff", "relayed")


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
    assert relayed.run(f"{_CONNECT} 0 /run/echo </f/data | sha256sum").split()[0] == digest
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
