"""A virtual serial port concentrator: hosts connect the serial ports of their machines to it, and move them from host to host.

VMware's "Virtual Serial Port Concentrator" of vSphere's documentation; telnet with option 232. A machine says its UUID and, in
the URI of its port, a secret that only its configuration and we know; who says anything else gets nothing.
"""

import enum
import hmac
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from appliance.errors import HypervisorError
from appliance.http.listener import accept_connections
from appliance.hypervisor.vsphere.telnet import (
    VMWARE,
    Subnegotiation,
    Telnet,
    TelnetError,
    escape,
    subnegotiation,
)
from tether.transport import Line

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_READ = 64 << 10
# How long a host may take to say which machine it speaks for, and how many that have not may be there at once.
_PATIENCE = 10.0
_MOST_UNKNOWN = 256
_MOST_SEQUENCE = 64
_MOST_EARLY = 1 << 20
# A move of which nothing is heard for so long has failed.
_LONGEST_MOVE = 120.0


class _Say(enum.IntEnum):
    """VMware's messages within option 232."""

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


_KNOWN = bytes(
    (
        _Say.KNOWN_1,
        _Say.KNOWN_2,
        _Say.UNKNOWN_1,
        _Say.UNKNOWN_2,
        _Say.VMOTION_BEGIN,
        _Say.VMOTION_GOAHEAD,
        _Say.VMOTION_NOTNOW,
        _Say.VMOTION_PEER,
        _Say.VMOTION_PEER_OK,
        _Say.VMOTION_COMPLETE,
        _Say.VMOTION_ABORT,
        _Say.DO_PROXY,
        _Say.WILL_PROXY,
        _Say.WONT_PROXY,
        _Say.VM_VC_UUID,
        _Say.GET_VM_VC_UUID,
    )
)


@dataclass(frozen=True, slots=True)
class PortKey:
    """Whose port it is: vCenter's UUID of the machine, and what its port's serviceURI is."""

    uuid: str
    uri: str


def plain_uuid(text: str) -> str:
    """A UUID as hosts write it, without what they put between: "50 3c ... - ...", "503c...-...", in capitals or not."""
    return "".join(character for character in text.lower() if character in "0123456789abcdef")


class Port:
    """A machine's serial port. Hosts come and go; whoever dialled it keeps the line."""

    def __init__(self, key: PortKey) -> None:
        self.key = key
        self._peer: _Peer | None = None
        # The host that the machine moves to, from its first word to the end of the move.
        self._next: _Peer | None = None
        self._moving: bytes | None = None
        self._moving_until = 0.0
        # Hosts that speak for the machine while it moves, and have not said that they are where it moves to.
        self._waiting: list[_Peer] = []
        # What the next host told before the move was complete.
        self._early = bytearray()
        self._inner: trio.socket.SocketType | None = None
        self._changed = trio.Event()
        self.gone = False

    def dial(self) -> Line:
        """A line to it, instead of an earlier one. What is said while no host is there waits."""
        if self.gone:
            raise HypervisorError("the machine's serial port is not there any more")
        if self._inner is not None:
            self._inner.close()
        inner, outer = socket.socketpair()
        inner.setblocking(False)
        self._inner = trio.socket.from_stdlib_socket(inner)
        self._tell()
        return Line(outer.detach())

    def close(self) -> None:
        """Nobody is connected to it any more."""
        self.gone = True
        if self._inner is not None:
            self._inner.close()
            self._inner = None
        for peer in (self._peer, self._next, *self._waiting):
            if peer is not None:
                peer.scope.cancel()
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    # -- hosts ----------------------------------------------------------------------------------------------------

    def join(self, peer: "_Peer") -> None:
        """A host speaks for the machine: the only one, since a machine runs on one, unless it moves."""
        if self._moving is not None and self._peer is not None and trio.current_time() < self._moving_until:
            self._waiting.append(peer)
            return
        if self._peer is not None and self._peer is not peer:
            self._peer.scope.cancel()
        self._peer = peer
        self._tell()

    def leave(self, peer: "_Peer") -> None:
        if peer in self._waiting:
            self._waiting.remove(peer)
        if self._next is peer:
            self._next = None
        if self._peer is peer:
            # A host that moves it away may go before it has said that it is done.
            self._peer = self._next or (self._waiting.pop() if self._waiting else None)
            self._next = self._moving = None
            self._early.clear()
        self._tell()

    def begin_move(self, sequence: bytes) -> bytes:
        """A move begins; what the next host has to say."""
        self._moving = sequence + os.urandom(16)
        self._moving_until = trio.current_time() + _LONGEST_MOVE
        return self._moving

    def come(self, peer: "_Peer", said: bytes) -> bool:
        """The next host is there. What it has to tell waits until the move is complete."""
        if self._moving is None or not hmac.compare_digest(said, self._moving):
            return False
        self._next = peer
        if peer in self._waiting:
            self._waiting.remove(peer)
        self._tell()
        return True

    async def end_move(self, peer: "_Peer", *, complete: bool) -> None:
        """Said by either host."""
        if self._moving is None or peer not in (self._peer, self._next):
            return
        self._moving = None
        after, self._next = self._next, None
        for other in self._waiting:
            other.scope.cancel()
        if after is None:
            return
        early, self._early = bytes(self._early), bytearray()
        if complete:
            self._peer = after
            self._tell()
            await self.up(after, early)
        else:
            after.scope.cancel()
            self._tell()

    # -- bytes ----------------------------------------------------------------------------------------------------

    async def up(self, peer: "_Peer", data: bytes) -> None:
        """From the machine, to whoever has dialled; without anybody it is lost, as on any line."""
        if self._next is peer:
            self._early += data
            if len(self._early) > _MOST_EARLY:
                raise TelnetError("it talks before its machine has moved")
            return
        inner = self._inner
        if inner is None or self._peer is not peer:
            return
        view = memoryview(data)
        try:
            while view:
                view = view[await inner.send(view) :]
        except (OSError, trio.ClosedResourceError):
            if self._inner is inner:
                inner.close()
                self._inner = None
                self._tell()

    async def run(self) -> None:
        """Carry what is said to the machine, until it is closed."""
        try:
            await self._down()
        finally:
            self.close()

    async def _down(self) -> None:
        while not self.gone:
            inner, changed = self._inner, self._changed
            # From when the next host is there the machine may stand still: what it is sent then waits for the end of the move.
            peer = self._peer if self._next is None else None
            if inner is None or peer is None:
                await changed.wait()
                continue
            try:
                data = await inner.recv(_READ)
            except (OSError, trio.ClosedResourceError):
                data = b""
            if not data:
                if self._inner is inner:
                    inner.close()
                    self._inner = None
                continue
            while self._next is not None or self._peer is None:
                if self.gone or self._inner is not inner:
                    break
                await self._changed.wait()
            if self._peer is not None and self._inner is inner:
                await self._peer.send(escape(data))


@dataclass(slots=True)
class _Known:
    """Whose ports are expected, by UUID; of which URIs clones are under way, and the hosts that speak for some of these already."""

    ports: dict[str, Port] = field(default_factory=dict)
    cloned: set[str] = field(default_factory=set)
    early: set["_Peer"] = field(default_factory=set)


class _Peer:
    """A host's connection."""

    def __init__(self, stream: trio.abc.Stream, name: str, known: _Known) -> None:
        self._stream = stream
        self._name = name
        self._known = known
        self._telnet = Telnet()
        self._sending = trio.Lock()
        self._uuid = ""
        self._uri: str | None = None
        self._port: Port | None = None
        self.scope = trio.CancelScope()
        self.identified = trio.Event()

    async def send(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            self.scope.cancel()

    async def run(self) -> None:
        """Until the connection ends."""
        with self.scope:
            self._telnet.open()
            try:
                await self._flush()
                while data := await self._stream.receive_some(_READ):
                    for found in self._telnet.receive(bytes(data)):
                        if isinstance(found, Subnegotiation):
                            await self._take(found)
                        elif self._port is not None:
                            await self._port.up(self, found.data)
                        # Else it has not said who it is: nobody is to hear it.
                    await self._flush()
            except TelnetError as error:
                log.warning("serial port of %s: %s", self._name, error)
            except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
                log.debug("serial port of %s: %s", self._name, error)
        self._known.early.discard(self)
        if self._port is not None:
            self._port.leave(self)

    async def _flush(self) -> None:
        if self._telnet.to_send:
            data, self._telnet.to_send = bytes(self._telnet.to_send), bytearray()
            await self.send(data)

    async def _say(self, what: _Say, body: bytes = b"") -> None:
        await self.send(subnegotiation(VMWARE, bytes((what,)) + body))

    async def _take(self, message: Subnegotiation) -> None:
        if message.option != VMWARE or not message.body:
            return
        code, body = message.body[0], message.body[1:]
        if code == _Say.KNOWN_1:
            await self._say(_Say.KNOWN_2, _KNOWN)
            await self._say(_Say.GET_VM_VC_UUID)
        elif code == _Say.DO_PROXY:
            # The first byte says who of the two is the server.
            self._uri = body[1:].decode("utf-8", "replace")
            await self.identify()
        elif code == _Say.VM_VC_UUID:
            self._uuid = plain_uuid(body.decode("utf-8", "replace"))
            await self.identify()
        elif code == _Say.VMOTION_BEGIN and len(body) <= _MOST_SEQUENCE:
            if self._port is None:
                await self._say(_Say.VMOTION_NOTNOW, body)
            else:
                await self._say(_Say.VMOTION_GOAHEAD, self._port.begin_move(body))
        elif code == _Say.VMOTION_PEER:
            await self._come(body)
        elif code in (_Say.VMOTION_COMPLETE, _Say.VMOTION_ABORT):
            if self._port is not None:
                await self._port.end_move(self, complete=code == _Say.VMOTION_COMPLETE)
        elif code not in _KNOWN:
            await self._say(_Say.UNKNOWN_1, bytes((code,)))

    async def identify(self) -> None:
        """Once both are known: whose serial port it is, or none of ours."""
        if not self._uuid or self._uri is None or self._port is not None:
            return
        port = self._known.ports.get(self._uuid)
        if port is None and self._uri in self._known.cloned:
            # vCenter chooses a clone's UUID: its host may know it before we do.
            self._known.early.add(self)
            return
        if port is None or not hmac.compare_digest(self._uri.encode(), port.key.uri.encode()):
            log.warning(
                "serial port of %s: no machine of ours has the UUID %.40s, or not with this URI", self._name, self._uuid
            )
            await self._say(_Say.WONT_PROXY)
            self.scope.cancel()
            return
        await self._say(_Say.WILL_PROXY)
        self._port = port
        self.identified.set()
        port.join(self)

    async def _come(self, said: bytes) -> None:
        """It is the host that a machine moves to. It says so before or after who it is."""
        for port in [self._port] if self._port is not None else list(self._known.ports.values()):
            if port.come(self, said):
                self._port = port
                self.identified.set()
                await self._say(_Say.VMOTION_PEER_OK, said)
                return
        self.scope.cancel()


class Concentrator:
    """`allowed` are the networks of hosts that may connect, all when it is empty; `tls` is what they must speak then (telnets)."""

    def __init__(
        self, nursery: trio.Nursery, allowed: Sequence[Network] = (), tls: ssl.SSLContext | None = None
    ) -> None:
        self._nursery = nursery
        self._allowed = tuple(allowed)
        self._tls = tls
        self._known = _Known()
        self._unknown = 0

    def expect(self, uuid: str, uri: str) -> Port:
        """A machine's port from now on. HypervisorError when there is one already."""
        key = PortKey(plain_uuid(uuid), uri)
        if key.uuid in self._known.ports:
            raise HypervisorError(f"there is a machine of the UUID {uuid} already")
        port = self._known.ports[key.uuid] = Port(key)
        self._nursery.start_soon(port.run)
        early, self._known.early = self._known.early, set()
        for peer in early:
            self._nursery.start_soon(peer.identify)
        return port

    @contextmanager
    def expecting_clones(self, uri: str) -> Iterator[None]:
        """In the block hosts may speak for machines of this URI that are not expected yet: they are heard when they are."""
        self._known.cloned.add(uri)
        try:
            yield
        finally:
            self._known.cloned.discard(uri)

    def forget(self, port: Port) -> None:
        """The machine is gone."""
        self._known.ports.pop(port.key.uuid, None)
        port.close()

    async def serve(self, listener: trio.SocketListener) -> None:
        """Take connections, until cancelled."""
        await accept_connections(listener.socket, self._connection, self._nursery, name="serial ports")

    async def _connection(self, connection: trio.socket.SocketType) -> None:
        stream = trio.SocketStream(connection)
        name = "a host that is gone"
        async with stream:
            try:
                host, port = stream.socket.getpeername()[:2]
                name = f"{host}:{port}"
            except OSError:
                return
            # A host that lost its power says no goodbye.
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, seconds in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
                stream.setsockopt(socket.IPPROTO_TCP, option, seconds)
            address = ipaddress.ip_address(host.partition("%")[0])
            if self._allowed and not any(address in network for network in self._allowed):
                log.warning("serial port of %s: no host that may connect", name)
                return
            if self._unknown >= _MOST_UNKNOWN:
                log.warning("serial port of %s: too many that have not said who they are", name)
                return
            self._unknown += 1
            try:
                await self._identified(stream, name)
            except Exception:
                log.exception("serial port of %s", name)

    async def _identified(self, stream: trio.SocketStream, name: str) -> None:
        """Serve a host; one that does not say in time whose port it has is hung up."""
        counted = True

        def uncount() -> None:
            nonlocal counted
            if counted:
                counted = False
                self._unknown -= 1

        try:
            secured: trio.abc.Stream = stream
            if self._tls is not None:
                secured = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
                try:
                    with trio.fail_after(_PATIENCE):
                        await secured.do_handshake()
                except (trio.TooSlowError, trio.BrokenResourceError, ssl.SSLError) as error:
                    log.warning("serial port of %s: no TLS: %s", name, error)
                    return
            peer = _Peer(secured, name, self._known)
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    with trio.move_on_after(_PATIENCE) as patience:
                        await peer.identified.wait()
                    uncount()
                    if patience.cancelled_caught:
                        log.warning("serial port of %s: it does not say whose it is", name)
                        peer.scope.cancel()

                nursery.start_soon(watch)
                await peer.run()
                nursery.cancel_scope.cancel()
        finally:
            uncount()
