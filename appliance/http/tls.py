"""TLS in front of a connection. The server gets the client's identity, and a plain socket with the bytes and both ends of them."""

import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from appliance.errors import InvalidParameter
from appliance.http.client_limits import Unfinished
from tether.transport import LineClosed, TlsLine
from tether.transport.tls import in_time

log = logging.getLogger(__name__)

_HANDSHAKE_SECONDS = 30.0
# A handshake under way costs some 100 KiB, and nobody has proved an identity yet.
_MOST_HANDSHAKES = 256
_DRAIN_SECONDS = 30.0
_PIECE = 256 << 10
_LINGER_SECONDS = 0.5
# How Go's server recognises HTTP on a TLS port, and its answer (net/http/server.go).
_HTTP_STARTS = (b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO", b"DELET")
_NOT_HTTPS = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"


@dataclass(frozen=True, slots=True)
class Peer:
    """A client by the subject of its certificate. Empty without a client certificate (`--tls` without `--tlsverify`)."""

    common_name: str = ""
    units: tuple[str, ...] = ()


class TlsFront:
    """A server's certificate and key. With `authority`, clients need a certificate of one of these CAs.

    Each connection checks the files for changes: new certificates hold from the next connection on.
    """

    def __init__(self, certificate: Path, key: Path, authority: Path | None) -> None:
        self._files = (certificate, key, authority)
        self._stamp: tuple[tuple[int, int], ...] = ()
        self._context = self._load()
        self._handshakes = Unfinished(_MOST_HANDSHAKES, _HANDSHAKE_SECONDS)

    def _load(self) -> ssl.SSLContext:
        certificate, key, authority = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The first that the client offers, too. Clients that offer both get HTTP/1.1; gRPC's clients offer HTTP/2 alone, and demand it.
        context.set_alpn_protocols(["http/1.1", "h2"])
        named: Path | None = certificate
        try:
            stamp = self._fingerprint()
            context.load_cert_chain(certificate, key)
            named = authority
            if authority is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(f"could not load X509 key pair or CAs ({named}): {error}") from error
        self._stamp = stamp
        return context

    def _fingerprint(self) -> tuple[tuple[int, int], ...]:
        found = (os.stat(path) for path in self._files if path is not None)
        return tuple((status.st_mtime_ns, status.st_ino) for status in found)

    def _current(self) -> ssl.SSLContext:
        try:
            if self._fingerprint() != self._stamp:
                self._context = self._load()
                log.info("certificates have changed and were loaded again")
        except (OSError, InvalidParameter) as error:
            # The files may be half written. The old certificates hold until the new ones can be loaded.
            log.warning("new certificates cannot be loaded, the old ones stay in use: %s", error)
        return self._context

    @asynccontextmanager
    async def opened(
        self, connection: trio.socket.SocketType
    ) -> AsyncIterator[tuple[trio.socket.SocketType, Peer] | None]:
        """A plain socket with the client's bytes, and its identity, while the block lasts. Owns the connection.

        None when the handshake fails.
        """
        line = await self._shake_hands(connection)
        if line is None:
            yield None
            return
        ours, theirs = trio.socket.socketpair()
        sent = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_inward, line, ours)
                nursery.start_soon(_outward, line, ours, sent)
                with theirs:
                    yield theirs, _peer_of(line.tls)
                # The server has closed its socket: the rest of its answer still goes to the client.
                with trio.move_on_after(_DRAIN_SECONDS):
                    await sent.wait()
                nursery.cancel_scope.cancel()
        finally:
            ours.close()
            line.close()

    async def _shake_hands(self, connection: trio.socket.SocketType) -> TlsLine | None:
        """The line to a client that has authenticated; None when the handshake fails or exceeds a limit."""
        with connection, self._handshakes.operation():
            if await _speaks_http(connection):
                await _answer_http(connection)
                return None
            line = TlsLine(connection.detach(), self._current(), server=True)
            return line if await in_time(line, _HANDSHAKE_SECONDS) else None
        return None


async def _speaks_http(connection: trio.socket.SocketType) -> bool:
    """Whether the client's first bytes are those of a request without TLS. The bytes stay in the socket."""
    try:
        start = await connection.recv(len(_HTTP_STARTS[0]), socket.MSG_PEEK)
    except OSError:
        return False
    return bool(start) and any(known.startswith(start) for known in _HTTP_STARTS)


async def _answer_http(connection: trio.socket.SocketType) -> None:
    with suppress(OSError), trio.move_on_after(_LINGER_SECONDS):
        await connection.send(_NOT_HTTPS)
        # Closing while the client still sends would reset the connection before the client has read the answer.
        connection.shutdown(socket.SHUT_WR)
        while await connection.recv(_PIECE):
            pass


def _peer_of(tls: ssl.SSLObject) -> Peer:
    certificate: Any = tls.getpeercert() or {}
    names: list[tuple[str, str]] = [pair for group in certificate.get("subject", ()) for pair in group]
    units = tuple(value for name, value in names if name == "organizationalUnitName")
    return Peer(next((value for name, value in names if name == "commonName"), ""), units)


async def _inward(line: TlsLine, ours: trio.socket.SocketType) -> None:
    try:
        while True:
            view = memoryview(await line.read())
            while view:
                view = view[await ours.send(view) :]
    except LineClosed:
        # The client sends no more (close_notify, or it is gone). The answer may go on.
        try:
            ours.shutdown(socket.SHUT_WR)
        except OSError:
            pass
    except OSError:
        pass  # the server has closed its socket


async def _outward(line: TlsLine, ours: trio.socket.SocketType, sent: trio.Event) -> None:
    try:
        while data := await ours.recv(_PIECE):
            await _write(line, data)
        line.say_end()
        await line.drain()
    except (LineClosed, OSError):
        # The client is gone: the server has to notice.
        try:
            ours.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    sent.set()


async def _write(line: TlsLine, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[line.try_write(view) :]
        await line.drain()
