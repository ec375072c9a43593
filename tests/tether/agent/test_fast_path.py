"""The guest dials the appliance by TCP and TLS, and trusts the given authority alone."""

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from protos.tether.v1.network_pb2 import OpenQuickLineRequest
from tests.live.certificates import self_signed
from tether.agent.fast_path import FastPathDialler
from tether.rpc.status import Code, RpcError
from tether.transport import Line, TlsLine
from tether.transport.tls import in_time, load_identity

Identity = tuple[bytes, bytes]


class FakeLink:
    def __init__(self) -> None:
        self.lines: list[Line] = []

    def attach(self, line: Line) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def make_identity(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Identity]:
    def make() -> Identity:
        certificate, key = self_signed(tmp_path_factory.mktemp("identity"), "127.0.0.1")
        return Path(certificate).read_bytes(), Path(key).read_bytes()

    return make


def _dialler() -> tuple[FastPathDialler, FakeLink]:
    dialler, link = FastPathDialler(), FakeLink()
    dialler.use(link)  # type: ignore[arg-type]
    return dialler, link


def _request(port: int, identity: Identity, authority: bytes) -> OpenQuickLineRequest:
    return OpenQuickLineRequest(
        address="127.0.0.1", port=port, certificate=identity[0], key=identity[1], authority=authority
    )


async def _serve(listener: socket.socket, identity: Identity, authority: bytes, lines: list[Line]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.decode())
    load_identity(context, *identity)
    connection, _ = await trio.to_thread.run_sync(listener.accept)
    line = TlsLine(connection.detach(), context, server=True)
    if await in_time(line, 10):
        lines.append(line)


async def test_both_ends_authenticate(make_identity: Callable[[], Identity], nursery: trio.Nursery) -> None:
    guest, appliance = make_identity(), make_identity()
    dialler, link = _dialler()
    served: list[Line] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with trio.open_nursery() as both:
            both.start_soon(_serve, listener, appliance, guest[0], served)
            await dialler.dial(_request(listener.getsockname()[1], guest, appliance[0]))
    (ours,), (theirs,) = link.lines, served
    assert ours.try_write(b"hello") == 5
    assert await theirs.read() == b"hello"
    ours.close()
    theirs.close()


async def test_another_appliance_is_refused(make_identity: Callable[[], Identity]) -> None:
    guest, appliance, other = make_identity(), make_identity(), make_identity()
    dialler, link = _dialler()
    served: list[Line] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with trio.open_nursery() as both:
            both.start_soon(_serve, listener, other, guest[0], served)
            with pytest.raises(RpcError, match="fast path: the TLS handshake failed") as caught:
                await dialler.dial(_request(listener.getsockname()[1], guest, appliance[0]))
    assert (caught.value.code, link.lines, served) == (Code.UNAVAILABLE, [], [])


async def test_a_port_without_a_listener(make_identity: Callable[[], Identity]) -> None:
    guest = make_identity()
    dialler, link = _dialler()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(RpcError, match=r"fast path: .*refused") as caught:
            await dialler.dial(_request(unused.getsockname()[1], guest, guest[0]))
    assert (caught.value.code, link.lines) == (Code.UNAVAILABLE, [])


async def test_certificates_that_are_none(make_identity: Callable[[], Identity]) -> None:
    guest = make_identity()
    dialler, _ = _dialler()
    for identity, authority in (
        ((b"x", guest[1]), guest[0]),
        ((guest[0], b"x"), guest[0]),
        (guest, b"\xff"),
        (guest, b"x"),
    ):
        with pytest.raises(RpcError, match="fast path: ") as caught:
            await dialler.dial(_request(1, identity, authority))
        assert caught.value.code is Code.INVALID_ARGUMENT
