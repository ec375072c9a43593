"""An ESXi host's connection to the concentrator: VMware's telnet option 232, which names the VM and announces vMotion."""

import enum
import hmac
import logging
import ssl
from dataclasses import dataclass, field

import trio

from appliance.hypervisor.vsphere.serial_port import SerialPort, plain_uuid
from appliance.hypervisor.vsphere.telnet import VMWARE, Subnegotiation, Telnet, TelnetError, subnegotiation

log = logging.getLogger(__name__)

# Thousands of two-byte commands fit into a read, which one turn of the event loop handles.
_READ = 16 << 10
_MOST_SEQUENCE = 64


class _Message(enum.IntEnum):
    """VMware's messages in subnegotiations of option 232."""

    KNOWN_1 = 0
    KNOWN_2 = 1
    UNKNOWN_1 = 2
    UNKNOWN_2 = 3
    VMOTION_BEGIN = 40
    VMOTION_GOAHEAD = 41
    VMOTION_NOTNOW = 43
    VMOTION_PEER = 44
    VMOTION_PEER_OK = 45
    VMOTION_COMPLETE = 46
    VMOTION_ABORT = 48
    DO_PROXY = 70
    WILL_PROXY = 71
    WONT_PROXY = 73
    VM_VC_UUID = 80
    GET_VM_VC_UUID = 81


_KNOWN = bytes(_Message)


@dataclass(slots=True)
class ExpectedPorts:
    """The ports that hosts may connect to, by plain UUID.

    `clone_uris` are the port URIs of InstantClones that are being created. `early` are connections for such a URI whose UUID is not
    expected yet.
    """

    by_uuid: dict[str, SerialPort] = field(default_factory=dict)
    clone_uris: set[str] = field(default_factory=set)
    early: set["HostConnection"] = field(default_factory=set)


class HostConnection:
    """One connection of an ESXi host, for one serial port. `name` is the peer's address, for log lines."""

    def __init__(self, stream: trio.abc.Stream, name: str, expected: ExpectedPorts) -> None:
        self._stream = stream
        self._name = name
        self._expected = expected
        self._telnet = Telnet()
        self._sending = trio.Lock()
        self._uuid = ""
        self._uri: str | None = None
        self._port: SerialPort | None = None
        self.scope = trio.CancelScope()
        self.identified = trio.Event()

    async def send(self, data: bytes) -> None:
        """Send telnet data. A broken connection ends `run`."""
        try:
            async with self._sending:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            self.scope.cancel()

    async def run(self) -> None:
        """Serve the connection until it ends."""
        with self.scope:
            self._telnet.open()
            try:
                await self._flush()
                while data := await self._stream.receive_some(_READ):
                    for found in self._telnet.receive(bytes(data)):
                        if isinstance(found, Subnegotiation):
                            await self._take(found)
                        elif self._port is not None:
                            await self._port.deliver(self, found.data)
                        # Else the host has not identified the VM: its bytes are dropped.
                    await self._flush()
            except TelnetError as error:
                log.warning("serial port connection of %s: %s", self._name, error)
            except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
                log.debug("serial port connection of %s: %s", self._name, error)
        self._expected.early.discard(self)
        if self._port is not None:
            self._port.leave(self)

    async def _flush(self) -> None:
        if self._telnet.to_send:
            data, self._telnet.to_send = bytes(self._telnet.to_send), bytearray()
            await self.send(data)

    async def _answer(self, message: _Message, body: bytes = b"") -> None:
        await self.send(subnegotiation(VMWARE, bytes((message,)) + body))

    async def _take(self, message: Subnegotiation) -> None:
        if message.option != VMWARE or not message.body:
            return
        code, body = message.body[0], message.body[1:]
        if code == _Message.KNOWN_1:
            await self._answer(_Message.KNOWN_2, _KNOWN)
            await self._answer(_Message.GET_VM_VC_UUID)
        elif code == _Message.DO_PROXY:
            # The first byte says which end is the server.
            self._uri = body[1:].decode("utf-8", "replace")
            await self.identify()
        elif code == _Message.VM_VC_UUID:
            self._uuid = plain_uuid(body.decode("utf-8", "replace"))
            await self.identify()
        elif code == _Message.VMOTION_BEGIN and len(body) <= _MOST_SEQUENCE:
            if self._port is None:
                await self._answer(_Message.VMOTION_NOTNOW, body)
            else:
                await self._answer(_Message.VMOTION_GOAHEAD, self._port.begin_move(body))
        elif code == _Message.VMOTION_PEER:
            await self._arrive(body)
        elif code in (_Message.VMOTION_COMPLETE, _Message.VMOTION_ABORT):
            if self._port is not None:
                await self._port.end_move(self, complete=code == _Message.VMOTION_COMPLETE)
        elif code not in _KNOWN:
            await self._answer(_Message.UNKNOWN_1, bytes((code,)))

    async def identify(self) -> None:
        """Find the port, once the host has sent UUID and URI. Refuse the host when no port has both."""
        if not self._uuid or self._uri is None or self._port is not None:
            return
        port = self._expected.by_uuid.get(self._uuid)
        if port is None and self._uri in self._expected.clone_uris:
            # vCenter chooses a clone's UUID. The host may know the UUID before this driver does.
            self._expected.early.add(self)
            return
        if port is None or not hmac.compare_digest(self._uri.encode(), port.key.uri.encode()):
            log.warning(
                "serial port connection of %s: no machine has the UUID %.40s and this URI", self._name, self._uuid
            )
            await self._answer(_Message.WONT_PROXY)
            self.scope.cancel()
            return
        await self._answer(_Message.WILL_PROXY)
        self._port = port
        self.identified.set()
        port.join(self)

    async def _arrive(self, token: bytes) -> None:
        """The host is the target of a vMotion. VMOTION-PEER comes before or after UUID and URI."""
        for port in [self._port] if self._port is not None else list(self._expected.by_uuid.values()):
            if port.arrive(self, token):
                self._port = port
                self.identified.set()
                await self._answer(_Message.VMOTION_PEER_OK, token)
                return
        self.scope.cancel()
