"""The API over TLS: authentication, roles, half closes, certificates that are renewed."""

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.certificates import Authority
from tests.live.daemon import Daemon, running_daemon
from tests.live.programs import free_port
from tests.live.terminal import Terminal

pytestmark = pytest.mark.live


class Secured:
    """A daemon that serves its API over TLS, too."""

    def __init__(self, daemon: Daemon, authority: Authority, port: int) -> None:
        self.daemon = daemon
        self.authority = authority
        self.port = port

    def arguments(self, identity: tuple[Path, Path] | None) -> list[str]:
        """The docker CLI's flags for a client certificate."""
        arguments = ["--tlscacert", str(self.authority.certificate), "-H", f"tcp://127.0.0.1:{self.port}"]
        if identity is None:
            return ["--tlsverify", *arguments, "--tlscert", "", "--tlskey", ""]
        return ["--tlsverify", *arguments, "--tlscert", str(identity[0]), "--tlskey", str(identity[1])]

    def docker(
        self, identity: tuple[Path, Path] | None, *arguments: str, stdin: bytes = b""
    ) -> "subprocess.CompletedProcess[bytes]":
        command = ["docker", *self.arguments(identity), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    with tempfile.TemporaryDirectory(prefix="vch-", dir="/tmp") as name:
        root = Path(name)
        root.chmod(0o711)
        authority = Authority(root / "ca")
        certificate, key = authority.sign("/CN=vchd", "127.0.0.1")
        shutil.copy(certificate, root / "cert.pem")
        shutil.copy(key, root / "key.pem")
        port = free_port()
        with running_daemon(
            root,
            "-H",
            f"tcp://127.0.0.1:{port}",
            "--tlsverify",
            "--tlscacert",
            str(authority.certificate),
            "--tlscert",
            str(root / "cert.pem"),
            "--tlskey",
            str(root / "key.pem"),
            "--tls-allow",
            "full:OU=ops",
            "--tls-allow",
            "read:CN=viewer",
            "--tls-allow",
            "scoped:OU=tenants",
            on_host=True,
        ) as daemon:
            yield Secured(daemon, authority, port)


@pytest.fixture(scope="module")
def operator(secured: Secured) -> tuple[Path, Path]:
    return secured.authority.sign("/OU=ops/CN=alice")


def test_input_ends_and_output_goes_on(secured: Secured, operator: tuple[Path, Path]) -> None:
    data = os.urandom(8 << 20)
    script = "cat; echo end >&2"
    done = secured.docker(operator, "run", "-i", "--rm", "busybox", "sh", "-c", script, stdin=data)
    assert done.stdout == data
    assert done.stderr == b"end\n"
    secured.docker(
        operator, "run", "-d", "--name", "logged", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.3; done"
    )
    assert secured.docker(operator, "logs", "-f", "logged").stdout == b"1\n2\n3\n"
    secured.docker(operator, "rm", "logged")


def test_a_terminal(secured: Secured, operator: tuple[Path, Path]) -> None:
    class Over(Daemon):
        def __init__(self) -> None: ...
        def command(self, *arguments: str) -> list[str]:
            return ["docker", *secured.arguments(operator), *arguments]

    terminal = Terminal(Over(), "run", "-it", "--rm", "busybox", "sh")
    terminal.expect("# ")
    terminal.type("stty size\n")
    terminal.expect("31 97")
    terminal.type("exit 5\n")
    assert terminal.end() == 5


def test_a_client_of_another_authority_is_refused(secured: Secured, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    done = secured.docker(other.sign("/OU=ops/CN=alice"), "version")
    assert done.returncode
    assert b"certificate" in done.stderr or b"tls" in done.stderr
    context = ssl.create_default_context(cafile=str(secured.authority.certificate))
    with socket.create_connection(("127.0.0.1", secured.port)) as plain:
        # With TLS 1.3 a client learns at its first read that the server requires a certificate.
        with pytest.raises(OSError, match=r"(?i)certificate required|reset|eof"):  # noqa: PT012
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as line:
                line.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                assert not line.recv(1000)
                raise OSError("eof")
    with socket.create_connection(("127.0.0.1", secured.port)) as plain:
        plain.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1 200" not in plain.recv(1000)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", secured.port)) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain)


def test_read_only_clients_and_denied_clients(secured: Secured, operator: tuple[Path, Path]) -> None:
    viewer = secured.authority.sign("/OU=staff/CN=viewer")
    nobody = secured.authority.sign("/OU=staff/CN=bob")
    secured.docker(operator, "run", "-d", "--name", "seen", "busybox", "sleep", "1000")
    assert b"seen" in secured.docker(viewer, "ps").stdout
    assert secured.docker(viewer, "logs", "seen").returncode == 0
    for arguments in (
        ("rm", "-f", "seen"),
        ("exec", "seen", "true"),
        ("run", "busybox"),
        ("stop", "seen"),
    ):
        done = secured.docker(viewer, *arguments)
        assert b"authorization denied: client certificate CN=viewer may only read" in done.stderr, arguments
    assert b"received 403" in secured.docker(viewer, "attach", "seen").stderr
    assert b"CN=bob is not authorised to use this API" in secured.docker(nobody, "ps").stderr
    assert secured.docker(operator, "rm", "-f", "seen").returncode == 0


def test_clients_with_scopes(secured: Secured, operator: tuple[Path, Path]) -> None:
    one, other = (secured.authority.sign(f"/OU=tenants/CN={name}") for name in ("one", "other"))
    done = secured.docker(one, "run", "-i", "--name", "hers", "-v", "hers:/x", "busybox", "cat", stdin=b"through\n")
    assert (done.stdout, done.returncode) == (b"through\n", 0), done.stderr
    assert secured.docker(one, "ps", "-a", "--format", "{{.Names}}").stdout == b"hers\n"
    assert b"hers" in secured.docker(operator, "ps", "-a").stdout
    assert secured.docker(other, "ps", "-aq").stdout + secured.docker(other, "volume", "ls", "-q").stdout == b""
    for arguments in (("logs", "hers"), ("start", "hers"), ("rm", "hers"), ("cp", "hers:/etc/passwd", "-")):
        assert b"No such container: hers" in secured.docker(other, *arguments).stderr, arguments
    done = secured.docker(other, "run", "-v", "/etc:/host", "busybox", "true")
    assert b"a scoped client may not mount paths of the host: bind mount of /etc" in done.stderr
    assert secured.docker(one, "rm", "hers").returncode == secured.docker(one, "volume", "rm", "hers").returncode == 0


def _served(secured: Secured) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", secured.port)) as plain, context.wrap_socket(plain) as line:
        return line.getpeercert(True) or b""


def test_certificates_are_renewed_while_it_runs(secured: Secured, operator: tuple[Path, Path]) -> None:
    root = secured.daemon.root
    before = _served(secured)
    (root / "cert.pem").write_text("half of one")
    assert _served(secured) == before
    certificate, key = secured.authority.sign("/CN=vchd", "127.0.0.1")
    shutil.copy(key, root / "key.pem")
    shutil.copy(certificate, root / "cert.pem")
    assert _served(secured) == ssl.PEM_cert_to_DER_cert(certificate.read_text())
    assert secured.docker(operator, "version").returncode == 0


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--tlsverify", "--tlscert", "/nowhere/cert.pem"), "/nowhere/cert.pem"),
        (("--tls-allow", "full:CN=x"), "--tls-allow needs --tlsverify"),
        (("--tlsverify", "--tls-allow", "everybody"), "--tls-allow: invalid access rule 'everybody'"),
    ],
)
def test_invalid_tls_settings(short_path: Path, flags: tuple[str, ...], text: str) -> None:
    daemon = Daemon(short_path, on_host=True)
    with pytest.raises(AssertionError, match=text):
        daemon.start(*flags)
    daemon.close()


def test_http_without_tls_and_pages_of_other_sites_are_refused(secured: Secured, operator: tuple[Path, Path]) -> None:
    address = ("127.0.0.1", secured.port)
    with socket.create_connection(address, 20) as plain:
        plain.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        answer = b"".join(iter(lambda: plain.recv(1000), b""))
    assert answer == b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    context = ssl.create_default_context(cafile=secured.authority.certificate)
    context.load_cert_chain(*operator)
    with context.wrap_socket(socket.create_connection(address, 20), server_hostname="127.0.0.1") as line:
        line.sendall(
            b"POST /containers/x/stop HTTP/1.1\r\nHost: d\r\nOrigin: https://evil.test\r\nContent-Length: 0\r\n\r\n"
        )
        assert line.recv(1000).startswith(b"HTTP/1.1 403 Forbidden\r\n")
