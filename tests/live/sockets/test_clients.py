"""Programs of Debian in a container, at sockets of the host and of the API."""

import contextlib
import hashlib
import os
import signal
import socketserver
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, on_qemu
from tests.live.ryuk import load_ryuk, made, ryuks, wait_reaped
from tests.live.sockets.conftest import TOOLS
from tests.live.terminal import Terminal
from tests.live.waiting import until
from tests.steps import ROOT

pytestmark = [pytest.mark.live, on_qemu]

_API = ("-v", "/var/run/docker.sock:/var/run/docker.sock")
_MEBIBYTES = 64


@contextlib.contextmanager
def container(daemon: Daemon, name: str, *options: str, command: str = "sleep 10000") -> Iterator[None]:
    """A running container with Debian's programs."""
    daemon.must("run", "-d", "--name", name, *options, TOOLS.name, "sh", "-c", command)
    try:
        yield
    finally:
        daemon.docker("rm", "-f", "-v", name)


def test_the_docker_command_of_debian(daemon: Daemon, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * _MEBIBYTES
    (tmp_path / "data").write_bytes(data)
    with container(daemon, "client", *_API, "--label", "vch.docker-socket=full"):
        assert daemon.must("exec", "client", "docker", "ps", "--format", "{{.Names}}") == "client\n"
        daemon.must("run", "-d", "--name", "talker", "busybox", "sh", "-c", "echo first; sleep 3; echo last")
        assert daemon.must("exec", "client", "docker", "logs", "-f", "talker") == "first\nlast\n"
        daemon.must("rm", "talker")
        terminal = Terminal(daemon, "exec", "-it", "client", "docker", "exec", "-it", "client", "sh")
        terminal.type("echo $((6 * 7)); stty size; tty\r")
        terminal.expect("42\r\n31 97\r\n/dev/pts/")
        terminal.resize(20, 60)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.type("while [ \"$(stty size)\" != '20 60' ]; do sleep 0.1; done; echo re''sized\r")
        terminal.expect("resized")
        terminal.type("exit 9\r")
        assert terminal.end() == 9
        daemon.must("cp", str(tmp_path / "data"), "client:/data")
        nested = "docker run --rm -i busybox cat < /data | sha256sum"
        assert daemon.must("exec", "client", "sh", "-c", nested).split()[0] == hashlib.sha256(data).hexdigest()


def test_ryuk_in_a_scope(daemon: Daemon) -> None:
    """A client of testcontainers in a container with a scope: its Ryuk works on the objects of that scope, and on no others."""
    load_ryuk(daemon, "0.8.1")
    packages = sysconfig.get_paths()["purelib"]
    files = ("-v", f"{packages}:/packages:ro", "-v", f"{ROOT}/tests/clients/leaving.py:/leaving.py:ro")
    env = ("-e", "PYTHONPATH=/packages", "-e", "RYUK_RECONNECTION_TIMEOUT=1s")
    session = daemon.must("volume", "create", "--label", "org.testcontainers.session-id=other", "outside").strip()
    try:
        with container(daemon, "ci", *_API, *files, *env, command="exec python3 /leaving.py"):
            until(lambda: "ready" in daemon.must("logs", "ci"), 120, "the client is not ready")
            assert made(daemon) == [1, 1, 2]
            assert len(ryuks(daemon).split()) == 1
            inner = daemon.must("exec", "ci", "docker", "ps", "--format", "{{.Image}}").split()
            assert sorted(inner) == ["busybox", "testcontainers/ryuk:0.8.1"]
            daemon.must("kill", "ci")
            until(lambda: made(daemon) == [0, 0, 1], 60, "Ryuk has not removed all objects")
    finally:
        daemon.must("volume", "rm", session)
    wait_reaped(daemon)


def test_an_agent_of_ssh(daemon: Daemon, tmp_path: Path) -> None:
    agent, key = tmp_path / "agent", tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a key", "-f", key], check=True)
    with subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL) as running:
        try:
            until(agent.exists)
            env = os.environ | {"SSH_AUTH_SOCK": str(agent)}
            subprocess.run(["ssh-add", "-q", key], env=env, check=True)
            listed = subprocess.run(["ssh-add", "-l"], env=env, check=True, capture_output=True, text=True).stdout
            assert "a key" in listed
            with container(daemon, "ssh", "-v", f"{agent}:/agent", "-e", "SSH_AUTH_SOCK=/agent"):
                assert daemon.must("exec", "ssh", "ssh-add", "-l") == listed
                # The agent signs for a program in the container, which never has the key.
                daemon.must("cp", f"{key}.pub", "ssh:/key.pub")
                sign = "echo message | ssh-keygen -Y sign -q -n file -f /key.pub"
                (tmp_path / "signature").write_text(daemon.must("exec", "ssh", "sh", "-c", sign))
            check = ["ssh-keygen", "-Y", "check-novalidate", "-n", "file", "-s", str(tmp_path / "signature")]
            subprocess.run(check, input=b"message\n", check=True)
        finally:
            running.terminate()


class _Web(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _Answers(BaseHTTPRequestHandler):
    """Answers a POST with its body."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        pass


_NGINX = """
events {}
http {
    client_max_body_size 100m;
    server {
        listen 8080;
        location / { proxy_pass http://unix:/run/app.sock; }
        location /own/ { proxy_pass http://unix:/shared/app.sock:/; }
    }
    server { listen unix:/shared/app.sock; location / { return 200 "in the container\\n"; } }
}
"""


def test_a_proxy_before_a_server_at_a_socket(daemon: Daemon, tmp_path: Path) -> None:
    """nginx in a container, before a server of the host, and before one whose socket is in a volume."""
    with _Web(str(tmp_path / "app.sock"), _Answers) as server:
        (tmp_path / "app.sock").chmod(0o666)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ("-v", f"{tmp_path}/app.sock:/run/app.sock", "-v", "/shared", "-p", "8080:8080")
        command = f"echo '{_NGINX}' > /nginx.conf; exec nginx -c /nginx.conf -g 'daemon off;'"
        with container(daemon, "proxy", *options, command=command):
            body = os.urandom(3 << 20)
            (tmp_path / "body").write_bytes(body)

            def ask(path: str, *more: str) -> str:
                url = f"http://127.0.0.1:8080{path}"
                return daemon.run_inside("curl", "-s", "-f", "-o", str(tmp_path / "answer"), *more, url, check=False)

            until(lambda: not ask("/own/") and (tmp_path / "answer").exists(), 60, "nginx does not answer")
            assert (tmp_path / "answer").read_text() == "in the container\n"
            ask("/", "--data-binary", f"@{tmp_path}/body")
            assert (tmp_path / "answer").read_bytes() == body
        server.shutdown()
