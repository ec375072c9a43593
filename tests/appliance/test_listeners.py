"""The sockets of the API: where they are, who may use them, and that nothing of them stays."""

import os
import random
import socket
import ssl
import stat
from pathlib import Path

import pytest
import trio

from appliance.api.router import Router
from appliance.config import Config, parse_arguments
from appliance.engine.sockets.api_dialer import ApiConnection, ApiDialer
from appliance.errors import InvalidParameter
from appliance.http import Reply, Request
from appliance.listeners import api_listens
from appliance.roles import Principal, Role
from tests.live.certificates import Authority


def _config(root: Path, *hosts: str, more: tuple[str, ...] = ()) -> Config:
    flags = [flag for host in hosts for flag in ("-H", host)]
    return parse_arguments(["--data-root", str(root), *flags, *more])


def _free_port() -> int:
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


async def _get(stream: trio.abc.Stream, method: str = "GET", *, host: str = "x", more: tuple[str, ...] = ()) -> bytes:
    """The answer to a request for a path that does not exist."""
    head = "\r\n".join((f"{method} /nothing HTTP/1.1", f"Host: {host}", "Connection: close", *more))
    async with stream:
        await stream.send_all(f"{head}\r\n\r\n".encode())
        found = b""
        while piece := await stream.receive_some():
            found += piece
        return found


def _no_mounts() -> trio.MemoryReceiveChannel[ApiConnection]:
    return trio.open_memory_channel[ApiConnection](0)[1]


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "run" / "vch.sock"
    path.parent.mkdir()
    path.write_text("left by a killed daemon")
    pidfile = tmp_path / "pid"
    config = _config(tmp_path, f"unix://{path}", more=("--pidfile", str(pidfile)))
    async with api_listens(config, Router(), _no_mounts()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert pidfile.read_text() == str(os.getpid())
        answer = await _get(await trio.open_unix_socket(str(path)))
    assert answer.startswith(b"HTTP/1.1 404 ")
    head = answer.split(b"\r\n\r\n")[0].lower()
    assert b"\r\nostype: linux" in head
    assert b"\r\napi-version: 1." in head
    assert b"\r\nserver: docker/" in head
    assert b"\r\ndate: " in head
    assert not path.exists()
    assert not pidfile.exists()


async def test_several_sockets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = _free_port()
    async with api_listens(
        _config(tmp_path, f"unix://{tmp_path}/a", f"tcp://127.0.0.1:{port}", more=("--tls=false",)),
        Router(),
        _no_mounts(),
    ):
        assert (await _get(await trio.open_unix_socket(str(tmp_path / "a")))).startswith(b"HTTP/1.1 404 ")
        assert (await _get(await trio.open_tcp_stream("127.0.0.1", port))).startswith(b"HTTP/1.1 404 ")
    assert f"API at tcp://127.0.0.1:{port} without TLS" in caplog.text
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("host", ["ftp://x", "tcp://127.0.0.1", "tcp://127.0.0.1:http", "/run/x.sock"])
async def test_hosts_that_are_none(tmp_path: Path, host: str) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(InvalidParameter, match=rf"^invalid -H {host}: expected ")):
        async with api_listens(_config(tmp_path, host, more=("--tls=false",)), Router(), _no_mounts()):
            raise AssertionError("it does not listen")


async def test_browsers_cannot_use_a_tcp_socket_for_other_sites(tmp_path: Path) -> None:
    port = _free_port()
    config = _config(tmp_path, f"unix://{tmp_path}/a", f"tcp://127.0.0.1:{port}", more=("--tls=false",))

    async def ask(host: str, *more: str) -> bytes:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        return (await _get(stream, host=host, more=more))[:12]

    async with api_listens(config, Router(), _no_mounts()):
        assert await ask(f"127.0.0.1:{port}") == b"HTTP/1.1 404"
        assert await ask("rebound.test") == b"HTTP/1.1 403"
        assert await ask("localhost", "Origin: https://evil.test") == b"HTTP/1.1 403"
        # No browser speaks to a unix socket.
        answer = await _get(await trio.open_unix_socket(f"{tmp_path}/a"), host="any.test", more=("Origin: null",))
        assert answer.startswith(b"HTTP/1.1 404 ")


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="in use")):
            async with api_listens(
                _config(tmp_path, f"tcp://127.0.0.1:{port}", more=("--tls=false",)), Router(), _no_mounts()
            ):
                raise AssertionError("it does not listen")


async def test_tls_and_rules(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.sign("/CN=server", "127.0.0.1")
    port = _free_port()
    files = ("--tlscert", str(certificate), "--tlskey", str(key), "--tlscacert", str(authority.certificate))
    rules = ("--tlsverify", "--tls-allow", "full:CN=alice", "--tls-allow", "read:OU=auditors")
    config = _config(tmp_path, f"unix://{tmp_path}/a", f"tcp://127.0.0.1:{port}", more=(*files, *rules))

    auditor = authority.sign("/CN=bob/OU=auditors")

    async def ask(identity: tuple[Path, Path] | None, method: str) -> bytes:
        context = ssl.create_default_context(cafile=authority.certificate)
        if identity is not None:
            context.load_cert_chain(*identity)
        stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context, https_compatible=True)
        return (await _get(stream, method))[:12]

    async def never(request: Request, reply: Reply) -> None:
        raise AssertionError

    router = Router()
    router.add("POST", "/nothing", never)
    with trio.fail_after(20):
        async with api_listens(config, router, _no_mounts()):
            assert await ask(auditor, "GET") == b"HTTP/1.1 404"
            assert await ask(auditor, "POST") == b"HTTP/1.1 403"
            with pytest.raises(trio.BrokenResourceError):
                await ask(None, "GET")
            # Whoever may open the file needs no certificate.
            answer = await _get(await trio.open_unix_socket(str(tmp_path / "a")))
            assert answer.startswith(b"HTTP/1.1 404 ")


async def test_a_socket_mount_of_a_container(tmp_path: Path) -> None:
    """Connections through a container's mount are served for the container's principal, and refused once the API has ended."""
    seen: list[Principal] = []

    async def answer(request: Request, reply: Reply) -> None:
        seen.append(request.principal)
        await reply.json(200, {})

    api, mounts = trio.open_memory_channel[ApiConnection](0)
    principal = Principal("container:1", Role.READ)
    async with api_listens(_config(tmp_path, f"unix://{tmp_path}/a"), answer, mounts):
        assert (await _get(await ApiDialer(api, principal).dial(1000, 1000))).startswith(b"HTTP/1.1 200 ")
    assert seen == [principal]
    with pytest.raises(ConnectionRefusedError):
        await ApiDialer(api, principal).dial(0, 0)
