"""Fast paths: TCP connections with TLS to guests whose own line (a serial port) is slow.

The guest gets a certificate for one connection over its slow line, then connects. The port accepts only clients with such a
certificate.
"""

import logging
import secrets
import ssl
from collections.abc import Callable

import trio
from cryptography import x509
from cryptography.x509.oid import NameOID

from appliance.errors import Unavailable, VchError
from appliance.guest.session import GuestSession
from appliance.http.authority import Authority
from appliance.http.listener import accept_connections, open_tcp_listener
from protos.tether.v1 import network_pb2
from tether.transport import FastPath, TlsLine
from tether.transport.tls import in_time, load_identity, tune

log = logging.getLogger(__name__)

_HANDSHAKE_SECONDS = 15.0
_MOST_UNKNOWN = 64
_OFFER_SECONDS = 30.0
# Seconds between attempts: the network may be down for a while.
_PAUSES = (0.5, 2.0, 10.0, 60.0)


class FastPaths:
    """`device` is the bridge of the guests; connections from elsewhere are not accepted."""

    def __init__(self, device: str, port: int) -> None:
        self._device = device
        self.port = port
        self.authority = Authority()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_verify_locations(cadata=self.authority.pem.decode())
        load_identity(self._context, *self.authority.identity("vch"))
        # The function that takes a connection, by the name in the client's certificate.
        self._offered: dict[str, Callable[[TlsLine], None]] = {}

    async def run(self, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Accept connections until cancelled. Unavailable when the port is in use."""
        try:
            listener = await open_tcp_listener("0.0.0.0", self.port, self._device)
        except OSError as error:
            raise Unavailable(f"port {self.port} of {self._device} for guests: {error}") from error
        self.port = listener.getsockname()[1]
        task_status.started()
        async with trio.open_nursery() as nursery:
            await accept_connections(listener, self._take, nursery, name="fast paths of guests", limit=_MOST_UNKNOWN)

    def expect(self, name: str, take: Callable[[TlsLine], None]) -> None:
        """Pass the next connection with a certificate for this name to `take`, once."""
        self._offered[name] = take

    async def _take(self, connection: trio.socket.SocketType) -> None:
        try:
            tune(connection)
        except OSError:
            return
        line = TlsLine(connection.detach(), self._context, server=True)
        if not await in_time(line, _HANDSHAKE_SECONDS):
            return
        certificate = x509.load_der_x509_certificate(line.tls.getpeercert(True) or b"")
        (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        take = self._offered.pop(str(name.value), None)
        if take is None:
            line.close()
        else:
            take(line)

    async def keep(self, session: GuestSession, address: Callable[[], str]) -> None:
        """Keep a fast path to a guest open, until cancelled; after a failure try again.

        `address` returns our address on the guest's network, "" while there is none.
        """
        failed = 0
        while not session.closed:
            where = address()
            try:
                quick = await self._offer(session, where) if where else None
                why = "the guest does not connect"
            except VchError as error:
                quick, why = None, str(error)
            if quick is not None:
                failed = 0
                await quick.over.wait()
                why = "the connection broke"
            await trio.sleep(_PAUSES[min(failed, len(_PAUSES) - 1)])
            failed += 1
            if where and not session.closed:
                log.info("a guest has no fast path and uses its slow line: %s", why)

    async def _offer(self, session: GuestSession, address: str) -> FastPath | None:
        """A new fast path; None when the guest does not connect in time. VchError when it cannot."""
        name = secrets.token_hex(16)
        certificate, key = self.authority.identity(name)
        came: list[FastPath | None] = []
        there = trio.Event()

        def take(line: TlsLine) -> None:
            came.append(session.attach(line))
            there.set()

        self.expect(name, take)
        request = network_pb2.OpenQuickLineRequest(
            address=address, port=self.port, certificate=certificate, key=key, authority=self.authority.pem
        )
        try:
            await session.call("Network/OpenQuickLine", request, network_pb2.OpenQuickLineResponse, _OFFER_SECONDS)
            with trio.move_on_after(_HANDSHAKE_SECONDS):
                await there.wait()
        finally:
            self._offered.pop(name, None)
        return came[0] if came else None
