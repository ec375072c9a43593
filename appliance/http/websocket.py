"""A WebSocket connection (RFC 6455) as a stream of bytes: the content of its messages, without their boundaries."""

import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError, generate_accept_token

from appliance.errors import InvalidParameter
from appliance.http.stream import HijackedStream

_RECEIVE = 64 << 10


def accept_header(headers: dict[str, str]) -> bytes:
    """The header lines that accept the client's handshake. InvalidParameter when the request is not a handshake."""
    key = headers.get("sec-websocket-key", "")
    asked = "websocket" in headers.get("upgrade", "").lower() and "upgrade" in headers.get("connection", "").lower()
    if not asked or not key or headers.get("sec-websocket-version") != "13":
        raise InvalidParameter("not a WebSocket handshake: Upgrade, Sec-WebSocket-Key and version 13 are needed")
    token = generate_accept_token(key.encode())
    return b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n" % token


class WebSocketStream:
    """`stream` is the connection behind the handshake. `binary`: send binary messages, else text messages."""

    def __init__(self, stream: HijackedStream, *, binary: bool) -> None:
        self._stream = stream
        self._connection = Connection(ConnectionType.SERVER)
        self._binary = binary
        self._ended = False
        self._sending = trio.Lock()

    async def receive(self) -> bytes:
        """Some bytes, b"" when the client has closed the WebSocket, is gone, or breaks the protocol."""
        while not self._ended:
            try:
                for event in self._connection.events():
                    # A client that sends many small messages at once shares the loop with the others.
                    await trio.lowlevel.checkpoint()
                    if isinstance(event, BytesMessage) and event.data:
                        return bytes(event.data)
                    if isinstance(event, TextMessage) and event.data:
                        return event.data.encode()
                    if isinstance(event, Ping):
                        await self._send(self._connection.send(event.response()))
                    elif isinstance(event, CloseConnection):
                        self._ended = True
                        await self._send(self._connection.send(event.response()))
                        return b""
                data = await self._stream.receive(_RECEIVE)
                if not data:
                    break
                self._connection.receive_data(data)
            except RemoteProtocolError as error:
                await self._close(error.event_hint.code if isinstance(error.event_hint, CloseConnection) else 1002)
                break
            except (OSError, LocalProtocolError):
                break
        self._ended = True
        return b""

    async def send(self, data: bytes | memoryview) -> None:
        """Send the data as one message. BrokenPipeError or ConnectionResetError when the client is gone."""
        if self._ended:
            raise BrokenPipeError("the WebSocket is closed")
        message = BytesMessage(bytes(data)) if self._binary else TextMessage(bytes(data).decode("utf-8", "replace"))
        try:
            await self._send(self._connection.send(message))
        except LocalProtocolError as error:
            raise BrokenPipeError(str(error)) from error

    async def end(self) -> None:
        """Close the WebSocket."""
        await self._close(1000)

    async def _close(self, code: int) -> None:
        if not self._ended:
            self._ended = True
            try:
                await self._send(self._connection.send(CloseConnection(code)))
            except (OSError, LocalProtocolError):
                pass

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            await self._stream.send(data)
