"""A machine's network serial port as ESXi drives it: telnet to a concentrator, and the moves from host to host."""

import contextlib
import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from appliance.hypervisor.vsphere.telnet import VMWARE, Data, Telnet, escape, subnegotiation

KNOWN, BEGIN, GOAHEAD, NOTNOW, PEER, PEER_OK, COMPLETE, ABORT = 0, 40, 41, 43, 44, 45, 46, 48
DO_PROXY, WILL_PROXY, WONT_PROXY, VC_UUID = 70, 71, 73, 80


class SerialPort:
    """One host's connection. `said`: VMware's messages from the concentrator. `data`: bytes for the VM."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.telnet = Telnet()
        self.said: list[tuple[int, bytes]] = []
        self.data = bytearray()
        self.ended = False
        self._news = trio.Event()
        self._sending = trio.Lock()

    async def run(self) -> None:
        """Read until the connection ends."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            while came := await self.stream.receive_some(65536):
                for found in self.telnet.receive(bytes(came)):
                    if isinstance(found, Data):
                        self.data += found.data
                    elif found.option == VMWARE:
                        self.said.append((found.body[0], found.body[1:]))
                if self.telnet.to_send:
                    answer, self.telnet.to_send = bytes(self.telnet.to_send), bytearray()
                    await self.send(answer)
                self._tell()
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def send(self, data: bytes) -> None:
        """Send bytes without escaping them."""
        async with self._sending:
            await self.stream.send_all(data)

    async def say(self, what: int, body: bytes = b"") -> None:
        await self.send(subnegotiation(VMWARE, bytes((what,)) + body))

    async def write(self, data: bytes) -> None:
        """Send output of the machine."""
        await self.send(escape(data))

    async def hear(self, what: int) -> bytes:
        """Remove the first message of a kind from `said`, and return its body. Waits for the message."""
        with trio.fail_after(10):
            while True:
                for index, (code, body) in enumerate(self.said):
                    if code == what:
                        del self.said[index]
                        return body
                assert not self.ended, f"the concentrator hung up: {self.said}"
                await self._news.wait()

    async def hear_data(self, length: int, *, forever: bool = False) -> bytes:
        """The next bytes for the VM."""
        with trio.fail_after(math.inf if forever else 30):
            while len(self.data) < length:
                assert not self.ended
                await self._news.wait()
        found = bytes(self.data[:length])
        del self.data[:length]
        return found

    async def hear_end(self) -> None:
        with trio.fail_after(20):
            while not self.ended:
                await self._news.wait()

    async def identify(self, uuid: str, uri: str) -> None:
        """Name the VM of this connection, as a host does when it powers the VM on."""
        await self.say(KNOWN, bytes(range(90)))
        await self.say(DO_PROXY, b"C" + uri.encode())
        await self.say(VC_UUID, uuid.encode())


@asynccontextmanager
async def connected(port: int, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[SerialPort]:
    """A host's connection to a concentrator."""
    plain = await trio.open_tcp_stream(host, port)
    stream: trio.abc.Stream = (
        trio.SSLStream(plain, tls, server_hostname="127.0.0.1", https_compatible=True) if tls else plain
    )
    async with stream, trio.open_nursery() as nursery:
        serial = SerialPort(stream)
        nursery.start_soon(serial.run)
        yield serial
        nursery.cancel_scope.cancel()
