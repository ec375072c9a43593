"""A DNS server (RFC 1035) on the gateway address of each network.

It answers the names of containers. All other queries go, byte for byte, to the servers of the host's resolv.conf(5).
"""

import contextlib
import ipaddress
import logging
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import dnslib
import trio

from appliance.http.listener import accept_connections, bind_to_device, open_tcp_listener
from appliance.network.dns_query import MalformedQuery, parse_query_untrusted

log = logging.getLogger(__name__)

_TTL = 0  # a container may have another address after its next start
_PORT = 53
_LARGEST = 65535
_DATAGRAM = 512
_UPSTREAM_SECONDS = 5.0
_CLIENT_SECONDS = 10.0
# The limits of each network and of each client: queries that wait for other servers, and TCP connections.
_PENDING = 256
_PENDING_OF_SOURCE = 32
# socket(7): the number of Linux 5.19's option, which the module socket does not know.
_SO_RCVMARK = 75


@dataclass(frozen=True, slots=True)
class Answer:
    """The IPv4 and IPv6 addresses of a name, none for a name without an address. `servers`: ask these servers instead."""

    addresses: tuple[str, ...] = ()
    servers: tuple[str, ...] | None = None


Resolve = Callable[[str, str, str], Answer]
"""From a network's id, the client's address and a name in lower case to the answer."""
Reverse = Callable[[str, str], str | None]
"""From the client's address and an address to the name of that address."""


class NameServer:
    """Answers the queries of one network's containers."""

    def __init__(self, network_id: str, resolve: Resolve, reverse: Reverse) -> None:
        self._network = network_id
        self._resolve = resolve
        self._reverse = reverse
        self._label = f"name server of network {network_id[:12]}"
        self._pending = Counter[str]()

    @asynccontextmanager
    async def listen(self, address: str, device: str) -> AsyncIterator[None]:
        """Answer while the block lasts. `device` is the bridge: only its packets are seen. OSError when the port is taken."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with (
            trio.socket.socket(family, socket.SOCK_DGRAM) as datagrams,
            await open_tcp_listener(address, _PORT, device) as connections,
        ):
            datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # A kernel before 5.19 does not hand over the marks.
            with contextlib.suppress(OSError):
                datagrams.setsockopt(socket.SOL_SOCKET, _SO_RCVMARK, 1)
            bind_to_device(datagrams, device)
            await datagrams.bind((address, _PORT))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_datagrams, datagrams, nursery)
                nursery.start_soon(partial(accept_connections, name=self._label), connections, self._serve, nursery)
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel()

    # -- questions ------------------------------------------------------------------------------------------------

    async def _serve_datagrams(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                data, ancillary, _, address = await listener.recvmsg(_LARGEST, socket.CMSG_SPACE(4))
            except OSError as error:
                log.warning("%s: %s", self._label, error)
                await trio.sleep(0.1)
                continue
            peer = cast("tuple[str, int]", address)
            reply = self._answer_or_fail(data, peer[0])
            if isinstance(reply, bytes):
                await _send(listener, _fitting(reply, data), peer)
            elif self._take_slot(source := _source(ancillary, peer)):
                nursery.start_soon(self._pass_on_datagram, listener, data, peer, reply, source)
            else:
                # As moby's resolver does.
                await _send(listener, _failure(data, dnslib.RCODE.REFUSED), peer)

    async def _pass_on_datagram(
        self,
        listener: trio.socket.SocketType,
        data: bytes,
        peer: tuple[str, int],
        servers: tuple[str, ...],
        source: str,
    ) -> None:
        try:
            reply = await _ask(data, servers, stream=False)
            await _send(listener, reply or _failure(data), peer)
        finally:
            self._release_slot(source)

    async def _serve(self, connection: trio.socket.SocketType) -> None:
        with contextlib.suppress(OSError, EOFError):
            source = connection.getpeername()[0]
            if not self._take_slot(source):
                return
            try:
                with trio.move_on_after(_CLIENT_SECONDS):
                    while True:
                        data = await _receive_framed(connection)
                        reply = self._answer_or_fail(data, source)
                        if not isinstance(reply, bytes):
                            reply = await _ask(data, reply, stream=True) or _failure(data)
                        if not reply:
                            return
                        await _send_all(connection, struct.pack(">H", len(reply)) + reply)
            finally:
                self._release_slot(source)

    def _take_slot(self, source: str) -> bool:
        """Count a query that waits for another server, or a TCP connection. False when the client or the network has too many."""
        if self._pending.total() >= _PENDING or self._pending[source] >= _PENDING_OF_SOURCE:
            return False
        self._pending[source] += 1
        return True

    def _release_slot(self, source: str) -> None:
        self._pending[source] -= 1
        if not self._pending[source]:
            del self._pending[source]

    # -- answers --------------------------------------------------------------------------------------------------

    def _answer_or_fail(self, data: bytes, source: str) -> bytes | tuple[str, ...]:
        """As _answer; b"" for a client that gets no answer."""
        try:
            return self._answer(data, source)
        except Exception:
            # A question that fails must not stop the server.
            log.exception("%s: a query of %s failed", self._label, source)
            return _failure(data)

    def _answer(self, data: bytes, source: str) -> bytes | tuple[str, ...]:
        """The answer, or the servers to ask."""
        try:
            query = parse_query_untrusted(data)
        except MalformedQuery:
            return _failure(data)
        kinds = dnslib.QTYPE
        name = query.name
        reply = query.reply()
        if query.kind == kinds.PTR:
            address = _address_of(name)
            found = self._reverse(source, address) if address else None
            if found is not None:
                reply.add_answer(dnslib.RR(reply.q.qname, kinds.PTR, rdata=dnslib.PTR(found), ttl=_TTL))
                return bytes(reply.pack())
        answer = self._resolve(self._network, source, name)
        if answer.servers is not None:
            return answer.servers or _failure(data)
        addresses = list(answer.addresses)
        random.shuffle(addresses)  # clients use the first address: spread them
        for text in addresses:
            version = ipaddress.ip_address(text).version
            if query.kind == kinds.A and version == 4:
                reply.add_answer(dnslib.RR(reply.q.qname, kinds.A, rdata=dnslib.A(text), ttl=_TTL))
            elif query.kind == kinds.AAAA and version == 6:
                reply.add_answer(dnslib.RR(reply.q.qname, kinds.AAAA, rdata=dnslib.AAAA(text), ttl=_TTL))
        return bytes(reply.pack())


def _source(ancillary: list[tuple[int, int, bytes]], peer: tuple[str, int]) -> str:
    """Whose query this is: the tap's, by the mark of the firewall (frame_rules), else that of the client's address.

    A guest may write any source address into a datagram. With TCP the handshake shows that the address is the client's.
    """
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SO_MARK) and any(value):
            return f"mark {value.hex()}"
    return peer[0]


def _fitting(reply: bytes, data: bytes) -> bytes:
    """The answer if the client takes datagrams of its size (RFC 1035 4.2.1, RFC 6891), else "truncated": the client asks by TCP."""
    if len(reply) <= _DATAGRAM:
        return reply
    query = parse_query_untrusted(data)
    if len(reply) <= query.datagram:
        return reply
    short = query.reply()
    short.header.tc = 1
    return bytes(short.pack())


def _failure(data: bytes, code: int = dnslib.RCODE.SERVFAIL) -> bytes:
    """An error as the answer. It repeats the question if that can be parsed, else only its id. b"": no answer."""
    try:
        return bytes(parse_query_untrusted(data).reply(code).pack())
    except MalformedQuery as error:
        if error.code is None:
            return b""
        header = dnslib.DNSHeader(id=int.from_bytes(data[:2], "big"), qr=1, ra=1, rcode=error.code)
        return bytes(dnslib.DNSRecord(header).pack())


def _address_of(name: str) -> str | None:
    """The address in a name under in-addr.arpa or ip6.arpa."""
    with contextlib.suppress(ValueError):
        if name.endswith(".in-addr.arpa"):
            return str(ipaddress.IPv4Address(".".join(reversed(name.removesuffix(".in-addr.arpa").split(".")))))
        if name.endswith(".ip6.arpa"):
            digits = "".join(reversed(name.removesuffix(".ip6.arpa").split(".")))
            return str(ipaddress.IPv6Address(int(digits, 16))) if len(digits) == 32 else None
    return None


# -- other servers ------------------------------------------------------------------------------------------------


async def _ask(data: bytes, servers: tuple[str, ...], *, stream: bool) -> bytes | None:
    """The answer of the first server that answers; None when no server does."""
    for server in servers:
        with trio.move_on_after(_UPSTREAM_SECONDS), contextlib.suppress(OSError, EOFError):
            family = socket.AF_INET6 if ":" in server else socket.AF_INET
            kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
            with trio.socket.socket(family, kind) as upstream:
                await upstream.connect((server, _PORT))
                if stream:
                    await _send_all(upstream, struct.pack(">H", len(data)) + data)
                    return await _receive_framed(upstream)
                await upstream.send(data)
                while True:
                    reply = await upstream.recv(_LARGEST)
                    if reply[:2] == data[:2]:
                        return reply
    return None


async def _send(listener: trio.socket.SocketType, reply: bytes, peer: tuple[str, int]) -> None:
    if not reply:
        return
    with contextlib.suppress(OSError):
        await listener.sendto(reply, peer)


async def _send_all(connection: trio.socket.SocketType, data: bytes) -> None:
    sent = 0
    while sent < len(data):
        sent += await connection.send(data[sent:])


async def _receive_framed(connection: trio.socket.SocketType) -> bytes:
    async def exactly(size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = await connection.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    return await exactly(struct.unpack(">H", await exactly(2))[0])
