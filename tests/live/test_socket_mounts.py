"""Sockets of the host in containers: connections from real VMs to a server of this process."""

import hashlib
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, on_qemu, running_daemon

pytestmark = [on_qemu, pytest.mark.skipif(os.geteuid() != 0, reason="virtiofsd needs the rights of root")]

_SIZE = 8 << 20


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


# connect.pl SOCKET [COUNT]: copies stdin to the socket and the socket to stdout; with COUNT opens so many connections at once, and
# counts the lines that come back.
_CLIENT = r"""
use IO::Socket::UNIX; use Socket qw(SHUT_WR);
my ($path, $count) = @ARGV;
sub connected { IO::Socket::UNIX->new(Peer => $path) or die "connect: $!\n" }
if ($count) {
    my @open = map { my $c = connected(); print $c "$_\n"; $c->flush; $c } 1 .. $count;
    print "$count connected\n";
    my $lines = 0;
    for my $c (@open) { shutdown($c, SHUT_WR); my @got = <$c>; $lines += @got; close $c }
    print "$lines\n";
    exit;
}
my $c = connected();
my $pid = fork();
if (!$pid) { while (sysread(STDIN, my $data, 65536)) { syswrite($c, $data) or exit } shutdown($c, SHUT_WR); exit }
while (sysread($c, my $data, 65536)) { syswrite(STDOUT, $data) }
waitpid($pid, 0);
"""


def test_a_socket_of_the_host_in_a_container(daemon: Daemon, tmp_path: Path) -> None:
    server = Echo(tmp_path / "echo")
    files = tmp_path / "files"
    files.mkdir()
    (files / "connect.pl").write_text(_CLIENT)
    (files / "data").write_bytes(os.urandom(1 << 20) * (_SIZE >> 20))
    digest = hashlib.sha256((files / "data").read_bytes()).hexdigest()
    programs = [option for path in ("/usr", "/lib", "/lib64") for option in ("-v", f"{path}:{path}:ro")]
    other = f"type=bind,src={server.path},dst=/other/echo,ro"
    sockets = ["-v", f"{server.path}:/run/echo", "--mount", other]
    daemon.must(
        "run", "-d", "--name", "relayed", *programs, "-v", f"{files}:/f:ro", *sockets, "busybox", "sleep", "1000"
    )

    def say(command: str, *options: str) -> str:
        return daemon.must("exec", *options, "relayed", "sh", "-c", command)

    try:
        template = "{{range .Mounts}}{{.Type}} {{.Source}} {{.Destination}} {{.RW}};{{end}}"
        shown = daemon.must("inspect", "-f", template, "relayed")
        assert f"bind {server.path} /run/echo true;" in shown
        assert f"bind {server.path} /other/echo false;" in shown
        found = say("stat -c '%F %a %u %g' /run/echo /other/echo")
        assert found.splitlines() == ["socket 666 1234 5678"] * 2
        # Half close, through both mounts, as a user who is not root, whom the server sees.
        said = say("for s in /run/echo /other/echo; do echo $s | /usr/bin/perl /f/connect.pl $s; done", "-u", "4321")
        assert said == "/run/echo\n/other/echo\n"
        assert server.peers == [4321, 4321]
        assert say("/usr/bin/perl /f/connect.pl /run/echo </f/data | sha256sum").split()[0] == digest
        # Connections beyond the limit wait for their turn.
        assert say("/usr/bin/perl /f/connect.pl /run/echo 300") == "300 connected\n300\n"
        assert len(server.peers) == 303
        # The source goes away and comes back.
        server.close()
        assert say("echo lost | /usr/bin/perl /f/connect.pl /run/echo; echo done") == "done\n"
        server.open()
        assert say("echo back | /usr/bin/perl /f/connect.pl /run/echo") == "back\n"
        daemon.kill()
        daemon.start()
        deadline = time.monotonic() + 60
        while say("echo found | /usr/bin/perl /f/connect.pl /run/echo") != "found\n":
            assert time.monotonic() < deadline
        # The socket's place is a file of the container, as with Docker.
        assert "A /run/echo" in daemon.must("diff", "relayed")
        daemon.must("commit", "relayed", "committed")
        assert daemon.docker("cp", "relayed:/run", "-").returncode == 0
        daemon.must("restart", "-t", "0", "relayed")
        assert say("echo new | /usr/bin/perl /f/connect.pl /run/echo") == "new\n"
        daemon.must("kill", "relayed")
        server.close()
        assert daemon.docker("cp", "relayed:/run", "-").returncode == 0
        assert not server.path.exists()
    finally:
        daemon.docker("rm", "-f", "relayed")


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
