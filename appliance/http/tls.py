"""TLS in front of a connection: who is there, and the bytes, half closes included, on a plain socket for whoever serves it."""

import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from appliance.errors import InvalidParameter
from tether.transport import LineClosed, TlsLine
from tether.transport.tls import in_time

log = logging.getLogger(__name__)

_HANDSHAKE_SECONDS = 30.0
_DRAIN_SECONDS = 30.0
_PIECE = 256 << 10


@dataclass(frozen=True, slots=True)
class Peer:
    """A client by the subject of its certificate; without one (`--tls` alone), nobody."""

    common_name: str = ""
    units: tuple[str, ...] = ()


class TlsFront:
    """A server's certificate and key, and with `authority` the CAs that clients' certificates have to be from.

    The files are looked at for each connection: new ones hold from the next one on.
    """

    def __init__(self, certificate: Path, key: Path, authority: Path | None) -> None:
        self._files = (certificate, key, authority)
        self._stamp: tuple[tuple[int, int], ...] = ()
        self._context = self._load()

    def _load(self) -> ssl.SSLContext:
        certificate, key, authority = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        named: Path | None = certificate
        try:
            stamp = self._look()
            context.load_cert_chain(certificate, key)
            named = authority
            if authority is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(f"could not load X509 key pair or CAs ({named}): {error}") from error
        self._stamp = stamp
        return context

    def _look(self) -> tuple[tuple[int, int], ...]:
        found = (os.stat(path) for path in self._files if path is not None)
        return tuple((one.st_mtime_ns, one.st_ino) for one in found)

    def _current(self) -> ssl.SSLContext:
        try:
            if self._look() != self._stamp:
                self._context = self._load()
                log.info("certificates were read anew")
        except (OSError, InvalidParameter) as error:
            # Half written, perhaps: the old ones hold until the new ones can be read.
            log.warning("new certificates cannot be used: %s", error)
        return self._context

    @asynccontextmanager
    async def opened(
        self, connection: trio.socket.SocketType
    ) -> AsyncIterator[tuple[trio.socket.SocketType, Peer] | None]:
        """The client's bytes on a socket, as long as the block lasts; None when it does not prove who it is. Owns the connection."""
        line = TlsLine(connection.detach(), self._current(), server=True)
        if not await in_time(line, _HANDSHAKE_SECONDS):
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
                # Closed: what was answered goes out yet, to who takes it.
                with trio.move_on_after(_DRAIN_SECONDS):
                    await sent.wait()
                nursery.cancel_scope.cancel()
        finally:
            ours.close()
            line.close()


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
        # It will send no more (close_notify, or gone): what it is told may go on.
        try:
            ours.shutdown(socket.SHUT_WR)
        except OSError:
            pass
    except OSError:
        pass  # nobody serves it any more


async def _outward(line: TlsLine, ours: trio.socket.SocketType, sent: trio.Event) -> None:
    try:
        while data := await ours.recv(_PIECE):
            await _write(line, data)
        line.say_end()
        await line.drain()
    except (LineClosed, OSError):
        # The client is gone: whoever serves it is to know.
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
