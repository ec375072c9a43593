"""TLS in front of a connection: peers by their certificates, ends of both sides, certificates that change."""

import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from appliance.errors import InvalidParameter
from appliance.http import HijackedStream, Peer, TlsFront
from appliance.http import tls as module
from tests.live.certificates import Authority


class Files:
    """A CA, the server's certificate and a client's."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "ca")
        self.certificate, self.key = folder / "server.pem", folder / "server-key.pem"
        self.renew()
        self.client = self.authority.sign("/CN=alice/OU=ops/OU=dev")

    def renew(self) -> None:
        """Give the server another certificate."""
        for source, target in zip(
            self.authority.sign("/CN=server", "127.0.0.1"), (self.certificate, self.key), strict=True
        ):
            shutil.copy(source, target)
            os.utime(target, ns=(0, target.stat().st_mtime_ns + 1))

    def front(self, *, verify: bool = True) -> TlsFront:
        return TlsFront(self.certificate, self.key, self.authority.certificate if verify else None)

    def context(self, identity: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority.certificate)
        context.check_hostname = False
        if identity is not None:
            context.load_cert_chain(*identity)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def _dialled(front: TlsFront) -> AsyncIterator[tuple[trio.SocketStream, trio.MemoryReceiveChannel[Peer | None]]]:
    """A connection to a front that sends everything back in upper case; the peers that it has seen."""
    ours, theirs = trio.socket.socketpair()
    sender, receiver = trio.open_memory_channel[Peer | None](10)

    async def serve() -> None:
        async with front.opened(theirs) as found:
            await sender.send(found[1] if found is not None else None)
            if found is not None:
                while data := await found[0].recv(65536):
                    await trio.SocketStream(found[0]).send_all(data.upper())
                await found[0].send(b"that was all")

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield trio.SocketStream(ours), receiver
            ours.close()


def _client(stream: trio.SocketStream, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    return trio.SSLStream(stream, context, https_compatible=True)


async def _talk(client: trio.SSLStream[trio.SocketStream]) -> bytes:
    await client.send_all(b"abc")
    return bytes(await client.receive_some(100))


async def test_a_client_is_known_by_its_certificate(files: Files) -> None:
    async with _dialled(files.front()) as (stream, peers):
        client = _client(stream, files.context(files.client))
        assert await _talk(client) == b"ABC"
        assert await peers.receive() == Peer("alice", ("ops", "dev"))


async def test_without_an_authority_a_client_is_anonymous(files: Files) -> None:
    async with _dialled(files.front(verify=False)) as (stream, peers):
        client = _client(stream, files.context())
        assert await _talk(client) == b"ABC"
        assert await peers.receive() == Peer()


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], "h2"), (["other"], None), ([], None)],
)
async def test_only_clients_without_http1_get_http2(files: Files, offered: list[str], chosen: str | None) -> None:
    async with _dialled(files.front()) as (stream, _):
        context = files.context(files.client)
        if offered:
            context.set_alpn_protocols(offered)
        client = _client(stream, context)
        assert await _talk(client) == b"ABC"
        assert client.selected_alpn_protocol() == chosen


async def test_a_client_without_a_certificate_is_refused(files: Files) -> None:
    async with _dialled(files.front()) as (stream, peers):
        client = _client(stream, files.context())
        with pytest.raises(trio.BrokenResourceError):
            await _talk(client)
        assert await peers.receive() is None


async def test_a_client_of_another_authority_is_refused(files: Files, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "other").sign("/CN=alice")
    async with _dialled(files.front()) as (stream, peers):
        client = _client(stream, files.context(stranger))
        with pytest.raises(trio.BrokenResourceError):
            await _talk(client)
        assert await peers.receive() is None


async def test_a_client_that_speaks_no_tls(files: Files) -> None:
    async with _dialled(files.front()) as (stream, peers):
        await stream.send_all(b"\0 not TLS and not HTTP")
        assert await peers.receive() is None


@pytest.mark.parametrize("sent", [b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n", b"PO", b"HEAD /" + b"x" * 100_000])
async def test_a_client_that_speaks_http_without_tls(files: Files, sent: bytes) -> None:
    """The oracle is Go's net/http."""
    async with _dialled(files.front()) as (stream, peers):
        await stream.send_all(sent)
        received = b""
        while piece := await stream.receive_some(1000):
            received += piece
        assert received == b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
        stream.socket.close()
        assert await peers.receive() is None


async def test_a_flood_of_handshakes_costs_its_own_oldest(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_HANDSHAKES", 2)
    front = files.front()
    async with _dialled(front) as (first, first_peers):
        # trio runs new tasks in any order, and the first is to be the oldest.
        await trio.testing.wait_all_tasks_blocked()
        async with _dialled(front) as (second, _):
            await trio.testing.wait_all_tasks_blocked()
            async with _dialled(front) as (third, _):
                assert await _talk(_client(third, files.context(files.client))) == b"ABC"
                assert await first.receive_some(1) == b""
                assert await first_peers.receive() is None
            assert await _talk(_client(second, files.context(files.client))) == b"ABC"


async def test_a_handshake_that_does_not_end(files: Files, autojump_clock: MockClock) -> None:
    async with _dialled(files.front()) as (stream, peers):
        begin = trio.current_time()
        assert await peers.receive() is None
        assert trio.current_time() - begin == pytest.approx(30)
        assert await stream.receive_some(100) == b""


async def test_a_client_that_ends_its_side_gets_the_rest(files: Files) -> None:
    """By the standard library's objects: trio's SSLStream cannot end one side alone."""
    async with _dialled(files.front()) as (stream, _):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = files.context(files.client).wrap_bio(incoming, outgoing)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await stream.send_all(outgoing.read())
                incoming.write(bytes(await stream.receive_some(65536)))
        tls.write(b"abc")
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        await stream.send_all(outgoing.read())
        received = b""
        while True:
            try:
                piece = tls.read(100)
            except ssl.SSLWantReadError:
                incoming.write(bytes(await stream.receive_some(65536)))
                continue
            except ssl.SSLZeroReturnError:
                break
            if not piece:
                break
            received += piece
        assert received == b"ABCthat was all"


async def test_a_connection_that_is_given_away(files: Files) -> None:
    """TLS goes on below the socket that another owner has, until that owner closes it."""
    ours, theirs = trio.socket.socketpair()
    content = os.urandom(1 << 20)

    async def serve() -> None:
        async with files.front(verify=False).opened(theirs) as found:
            assert found is not None
            plain, early = await HijackedStream(found[0], b"early ").detach()
            assert found[0].fileno() < 0
            with trio.socket.from_stdlib_socket(plain) as owned:
                received = await owned.recv(100)
                await trio.SocketStream(owned).send_all(early + received + content)

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            client = _client(trio.SocketStream(ours), files.context())
            await client.send_all(b"late ")
            heard = b""
            while data := await client.receive_some(65536):
                heard += data
    assert heard == b"early late " + content
    ours.close()


async def test_large_answers_to_a_slow_reader(files: Files) -> None:
    data = os.urandom(1 << 20).lower()
    async with _dialled(files.front()) as (stream, _), trio.open_nursery() as nursery:
        client = _client(stream, files.context(files.client))
        await client.do_handshake()
        nursery.start_soon(client.send_all, data)
        received = b""
        while len(received) < len(data):
            received += await client.receive_some(10_000)
        assert received == data.upper()


async def _serial(files: Files, front: TlsFront) -> int:
    async with _dialled(front) as (stream, _):
        client = _client(stream, files.context(files.client))
        await client.do_handshake()
        return int(client.getpeercert()["serialNumber"], 16)


async def test_new_certificates_hold_from_the_next_connection_on(files: Files) -> None:
    front = files.front()
    first = await _serial(files, front)
    assert await _serial(files, front) == first
    files.renew()
    second = await _serial(files, front)
    assert second != first
    whole = files.certificate.read_bytes()
    files.certificate.write_bytes(whole[:100])
    try:
        assert await _serial(files, front) == second
    finally:
        files.certificate.write_bytes(whole)
    assert await _serial(files, front) == second


def test_files_that_cannot_be_used(files: Files, tmp_path: Path) -> None:
    for certificate, key, authority in (
        (tmp_path / "absent", files.key, None),
        (files.certificate, files.certificate, None),
        (files.certificate, files.key, files.key),
    ):
        with pytest.raises(InvalidParameter, match="could not load X509 key pair or CAs"):
            TlsFront(certificate, key, authority)


async def test_a_client_that_is_gone_ends_the_service(files: Files) -> None:
    async with _dialled(files.front()) as (stream, _):
        client = _client(stream, files.context(files.client))
        await client.do_handshake()
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    # `_dialled` ends when the service does.
