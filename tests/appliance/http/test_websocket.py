"""WebSocket streams, with wsproto's client as the peer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from appliance.errors import InvalidParameter
from appliance.http import HijackedStream, Reply, Request, WebSocketStream
from appliance.http.websocket import accept_header
from tests.appliance.http.wire import COMMON, served
from tests.steps import cpu_of_steps

_HANDSHAKE = {
    "upgrade": "websocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}
# RFC 6455 1.3.
_ACCEPTED = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"


def test_the_handshake() -> None:
    assert accept_header(_HANDSHAKE) == _ACCEPTED


@pytest.mark.parametrize(
    "change", [{"upgrade": "tcp"}, {"connection": "close"}, {"sec-websocket-key": ""}, {"sec-websocket-version": "8"}]
)
def test_requests_that_are_not_a_handshake(change: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter, match="not a WebSocket handshake"):
        accept_header(_HANDSHAKE | change)


class _Peer:
    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.socket = sock
        self.connection = Connection(ConnectionType.CLIENT)

    async def send(self, event: Event) -> None:
        await self.socket.send(self.connection.send(event))

    async def next(self) -> Event:
        while True:
            for event in self.connection.events():
                return event
            self.connection.receive_data(await self.socket.recv(65536) or None)


@asynccontextmanager
async def _joined(*, binary: bool = True) -> AsyncIterator[tuple[_Peer, WebSocketStream]]:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs, trio.fail_after(20):
        yield _Peer(ours), WebSocketStream(HijackedStream(theirs), binary=binary)


async def test_messages_are_bytes_whatever_their_boundaries() -> None:
    async with _joined() as (peer, stream):
        await peer.send(BytesMessage(b"first "))
        await peer.send(TextMessage("second ", message_finished=False))
        await peer.send(TextMessage("third"))
        received = b""
        while len(received) < 18:
            received += await stream.receive()
        assert received == b"first second third"


async def test_many_small_messages_share_the_loop() -> None:
    count = 6_000
    async with _joined() as (peer, stream), trio.open_nursery() as nursery:
        messages = (peer.connection.send(BytesMessage(b"")) + peer.connection.send(BytesMessage(b"x"))) * count
        with cpu_of_steps() as steps:
            nursery.start_soon(
                trio.SocketStream(peer.socket).send_all, messages + peer.connection.send(BytesMessage(b"."))
            )
            received = 0
            while data := await stream.receive():
                received += len(data)
                if data == b".":
                    break
        assert received == count + 1
        assert steps.longest < 0.05, steps


@pytest.mark.parametrize(("binary", "message"), [(True, BytesMessage(b"\xe2\x82")), (False, TextMessage("\ufffd"))])
async def test_the_kind_of_message_that_is_sent(binary: bool, message: Event) -> None:
    async with _joined(binary=binary) as (peer, stream):
        await stream.send(b"\xe2\x82")
        assert await peer.next() == message


async def test_pings_are_answered() -> None:
    async with _joined() as (peer, stream):
        await peer.send(Ping(b"are you there"))
        await peer.send(BytesMessage(b"data"))
        assert await stream.receive() == b"data"
        pong = await peer.next()
        assert isinstance(pong, Pong)
        assert bytes(pong.payload) == b"are you there"


async def test_the_client_closes() -> None:
    async with _joined() as (peer, stream):
        await peer.send(CloseConnection(1000))
        assert await stream.receive() == b""
        answer = await peer.next()
        assert isinstance(answer, CloseConnection)
        assert answer.code == 1000
        with pytest.raises(BrokenPipeError):
            await stream.send(b"too late")


async def test_the_server_closes() -> None:
    async with _joined() as (peer, stream):
        await stream.end()
        closed = await peer.next()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1000
        assert await stream.receive() == b""


async def test_bytes_that_are_not_websocket() -> None:
    async with _joined() as (peer, stream):
        await peer.socket.send(b"\xff" * 20)
        assert await stream.receive() == b""
        closed = await peer.next()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1002


async def test_a_client_that_is_gone() -> None:
    async with _joined() as (peer, stream):
        peer.socket.close()
        assert await stream.receive() == b""
        with pytest.raises(BrokenPipeError):
            await stream.send(b"x")


async def test_a_frame_behind_the_head() -> None:
    async def talk(request: Request, reply: Reply) -> None:
        async with reply.websocket(request, binary=True) as stream:
            await stream.send((await stream.receive()).upper())

    head = "".join(f"{name}: {value}\r\n" for name, value in _HANDSHAKE.items()).encode()
    async with served(talk) as client:
        peer = _Peer(client.socket)
        await client.send(
            b"GET / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n" + peer.connection.send(BytesMessage(b"early")),
        )
        await client.expect(b"HTTP/1.1 101 Switching Protocols\r\n" + _ACCEPTED + COMMON + b"\r\n")
        assert await peer.next() == BytesMessage(bytearray(b"EARLY"))
