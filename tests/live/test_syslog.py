"""Logs that go to a syslog server, also after it was unreachable."""

import re
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from tests.live.certificates import self_signed
from tests.live.daemon import Daemon, running_daemon

pytestmark = pytest.mark.live


class Server:
    """A syslog server over TCP; `lines` are the received lines."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.lines: list[str] = []
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        if self._tls is not None:
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                return
        with connection, connection.makefile() as file:
            try:
                for line in file:
                    self.lines.append(line.rstrip())
            except OSError:
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def wait(self, count: int) -> list[str]:
        deadline = time.monotonic() + 60
        while len(self.lines) < count:
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.05)
        return self.lines


def test_each_line_has_its_stream_and_tag(host_daemon: Daemon) -> None:
    server = Server()
    options = (
        "--log-driver",
        "syslog",
        "--log-opt",
        f"syslog-address=tcp://127.0.0.1:{server.port}",
        "--log-opt",
        "tag={{.Name}}",
        "--log-opt",
        "syslog-format=rfc5424",
    )
    host_daemon.must(
        "run", "--rm", "--name", "tells", *options, "busybox", "sh", "-c", "echo one; sleep 0.3; echo two >&2"
    )
    first, second = server.wait(2)
    assert re.fullmatch(r"<30>1 \S+Z \S+ tells \d+ tells - one", first)
    assert re.fullmatch(r"<27>1 \S+Z \S+ tells \d+ tells - two", second)
    server.close()


def test_lines_go_to_a_server_that_proves_its_identity(host_daemon: Daemon, short_path: Path) -> None:
    certificate, key = self_signed(short_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(tls=context)
    options = ("--log-driver", "syslog", "--log-opt", f"syslog-address=tcp+tls://127.0.0.1:{server.port}")
    trusted = ("--log-opt", f"syslog-tls-ca-cert={certificate}")
    # A server whose certificate is not trusted gets nothing, and the container goes on.
    host_daemon.must("run", "-d", "--name", "untold", *options, "busybox", "echo", "secret")
    host_daemon.must("wait", "untold")
    host_daemon.must("run", "--rm", *options, *trusted, "busybox", "echo", "told")
    host_daemon.must("run", "--rm", *options, "--log-opt", "syslog-tls-skip-verify=true", "busybox", "echo", "blindly")
    assert [line.rsplit(" ", 1)[1] for line in server.wait(2)] == ["told", "blindly"]
    host_daemon.must("rm", "-f", "untold")
    server.close()


def test_a_server_or_an_appliance_that_is_away_for_a_while_loses_nothing(short_path: Path) -> None:
    server = Server()
    with running_daemon(short_path, on_host=True) as daemon:
        options = ("--log-driver", "syslog", "--log-opt", f"syslog-address=tcp://127.0.0.1:{server.port}")
        script = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; sleep 0.1; done"
        daemon.must("run", "-d", "--name", "goeson", *options, "busybox", "sh", "-c", script)
        server.wait(5)
        server.close()
        daemon.kill()
        daemon.start()
        later = Server(server.port)
        daemon.must("wait", "goeson")
        # Docker's own logs are there as well.
        assert daemon.must("logs", "goeson").split() == [str(number) for number in range(1, 61)]
        deadline = time.monotonic() + 60
        while not later.lines or not later.lines[-1].endswith(" 60"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        numbers = {int(line.rsplit(" ", 1)[1]) for line in (*server.lines, *later.lines)}
        # The last lines before a connection broke may be lost.
        assert len(set(range(1, 61)) - numbers) <= 2
        later.close()
        daemon.must("rm", "goeson")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("syslog-address=nonsense", "should be in form proto://address"),
        ("syslog-facility=nonsense", "invalid syslog facility"),
        ("syslog-format=nonsense", "Invalid syslog format"),
        ("tag={{.Nonsense}}", "is not supported"),
        ("max-size=1m", "unknown log opt"),
    ],
)
def test_what_is_refused(daemon: Daemon, option: str, text: str) -> None:
    assert text in daemon.docker("create", "--log-driver", "syslog", "--log-opt", option, "busybox", "true").stderr
