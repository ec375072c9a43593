"""`make bench` and `python -m tests.bench sockets`: what a socket mount carries, beside dockerd's bind of the same socket.

The server is in this process, the client is a program in a container: bytes a second from the first byte to the last, and
requests a second of one connection that waits for each answer. On a busy host most of that time is waiting for a CPU, so the
CPU time of QEMU and of vchd is shown, too.
"""

import functools
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.bench_sizes import pid_of
from tests.live.daemon import Daemon
from tests.steps import cpu_seconds

_SIZE = 16 << 20
_PIECE = bytes(1 << 16)
_SECONDS = 2

# client.pl SOCKET up|down|ping. It loads few files: each is a round trip to virtiofsd.
_CLIENT = r"""
use Socket;
my ($path, $way, $count) = @ARGV;
socket(my $c, AF_UNIX, SOCK_STREAM, 0); connect($c, sockaddr_un($path)) or die "connect: $!\n";
my $data = "x" x 65536;
if ($way eq "up") {
    syswrite($c, $data) for 1 .. $count / 65536;
    shutdown($c, SHUT_WR); sysread($c, $data, 1);
}
if ($way eq "down") {
    for (my $left = $count; $left > 0;) { $left -= sysread($c, $data, 65536) || die "end\n" }
    syswrite($c, "x"); sysread($c, $data, 1);
}
if ($way eq "ping") {
    my ($done, $until) = (0, time + $count);
    while (time < $until) {
        syswrite($c, "GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n");
        my $answer = ""; sysread($c, $answer, 4096, length $answer) until $answer =~ /\r\n\r\nOK$/;
        $done++;
    }
    print $done / $count;
}
"""


class Target(Protocol):
    """A daemon to measure: tests/bench.py has the class."""

    name: str
    host: str
    path: str

    def docker(self, *arguments: str, stdin: bytes | None = None) -> bytes: ...


@contextmanager
def _server(path: Path) -> Iterator[list[float]]:
    """A server at a socket. Its client sends `_SIZE` bytes, or gets them: the first byte says which. The list gets MB/s."""
    found: list[float] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                found.append(_SIZE / 1e6 / _carry(connection, down=path.name == "down"))

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield found
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _carry(connection: socket.socket, *, down: bool) -> float:
    """The seconds that all bytes take."""
    begun = time.monotonic()
    if down:
        for _ in range(_SIZE // len(_PIECE)):
            connection.sendall(_PIECE)
        # The client has read the last byte.
        assert connection.recv(1) == b"x"
        return time.monotonic() - begun
    left = _SIZE - len(connection.recv(len(_PIECE)))
    begun = time.monotonic()
    while left:
        left -= len(connection.recv(len(_PIECE)))
    return time.monotonic() - begun


def _measured(servers: dict[str, list[float]], way: str, target: Target) -> float:
    target.docker("exec", "bench-sockets", "/usr/bin/perl", "/f/client.pl", f"/run/{way}", way, str(_SIZE))
    return servers[way][-1]


def _pinged(target: Target) -> float:
    command = ("/usr/bin/perl", "/f/client.pl", "/run/docker.sock", "ping", str(_SECONDS))
    return float(target.docker("exec", "bench-sockets", *command))


def _pinged_by_host(program: Path, target: Target) -> float:
    command = ["/usr/bin/perl", str(program), target.path, "ping", str(_SECONDS)]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def _show_cpu(title: str, daemon: Daemon, target: Target, measure: Callable[[Target], float], amount: float) -> None:
    """Print the CPU time of the machine and of vchd for one of the `amount` of what is measured; 0: what is measured in a second."""
    identity = target.docker("inspect", "-f", "{{.Id}}", "bench-sockets").decode().strip()
    pids = (pid_of(daemon, identity), daemon.pid)
    before = [cpu_seconds(pid) for pid in pids]
    found = measure(target)
    amount = amount or found * _SECONDS
    machine, vchd = ((cpu_seconds(pid) - old) * 1000 / amount for pid, old in zip(pids, before, strict=True))
    print(f"{title:38} ms     QEMU {machine:.2f}, vchd {vchd:.2f}", flush=True)


def compare_sockets(targets: Sequence[Target], daemon: Daemon, folder: Path, compare: Callable[..., None]) -> None:
    """Print a line for each way. `daemon` is that of the first target, `compare` that of tests/bench.py."""
    program = folder / "client/client.pl"
    program.parent.mkdir()
    program.write_text(_CLIENT)
    binds = [f"{path}:{path}:ro" for path in ("/usr", "/lib", "/lib64")] + [f"{program.parent}:/f:ro"]
    with _server(folder / "up") as up, _server(folder / "down") as down:
        servers = {"up": up, "down": down}
        for target in targets:
            own = [*binds, f"{folder}/up:/run/up", f"{folder}/down:/run/down", f"{target.path}:/run/docker.sock"]
            options = [part for bind in own for part in ("-v", bind)]
            target.docker("run", "-d", "--name", "bench-sockets", *options, "busybox", "sleep", "100000")
        try:
            compare(
                "socket mount, out of the container", "MB/s", targets, functools.partial(_measured, servers, "up"), 3
            )
            compare(
                "socket mount, into the container", "MB/s", targets, functools.partial(_measured, servers, "down"), 3
            )
            compare("ping, through a socket mount", "req/s", targets, _pinged, 3)
            compare(
                "ping, the same client on the host", "req/s", targets, functools.partial(_pinged_by_host, program), 3
            )
            for way in servers:
                measure = functools.partial(_measured, servers, way)
                _show_cpu(f"CPU of a megabyte {way}", daemon, targets[0], measure, _SIZE / 1e6)
            _show_cpu("CPU of a ping", daemon, targets[0], _pinged, 0)
        finally:
            for target in targets:
                target.docker("rm", "-f", "bench-sockets")
