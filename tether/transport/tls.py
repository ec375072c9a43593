"""A line whose bytes go through TLS (RFC 8446), over a connected socket."""

import os
import socket
import ssl

import trio

from tether.transport.line import READ_SIZE, TURN, Line, LineClosed

_MOST = 256 << 10
# Longer than a VM is stunned by a migration to another host.
_BROKEN_MS = 8000


class TlsLine(Line):
    """TLS over a socket, which this object owns. Call `handshake` first."""

    def __init__(self, fd: int, context: ssl.SSLContext, *, server: bool) -> None:
        super().__init__(fd)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._unsent = memoryview(b"")

    async def handshake(self) -> None:
        """Return when both ends have authenticated. LineClosed when the peer has not."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.drain()
                self._incoming.write(await super().read(TURN))
            except ssl.SSLError as error:
                # Send the TLS alert, so that the peer learns the reason.
                self._send_some()
                raise LineClosed(str(error)) from error
            else:
                await self.drain()
                return

    async def drain(self) -> None:
        """Return when all queued bytes are written. LineClosed when the peer has closed."""
        while not self._send_some():
            await super().wait_writable()

    def _send_some(self) -> bool:
        """Write the TLS records that wait; return whether all are written."""
        while True:
            if not self._unsent:
                self._unsent = memoryview(self._outgoing.read())
                if not self._unsent:
                    return True
            self._unsent = self._unsent[super().try_write(self._unsent) :]
            if self._unsent:
                return False

    @property
    def behind(self) -> bool:
        """See Line."""
        return bool(self._unsent) or self._outgoing.pending > 0

    def push(self) -> None:
        """See Line."""
        self._send_some()

    def try_write(self, data: bytes | memoryview) -> int:
        """See Line. Accepted bytes may still be queued: `behind`."""
        if not self._send_some():
            return 0
        view = memoryview(data)[:_MOST]
        try:
            self.tls.write(view)
        except ssl.SSLError as error:
            raise LineClosed(str(error)) from error
        self._send_some()
        return len(view)

    def say_end(self) -> None:
        """Queue a close_notify, for `push`: this end sends no more, but still reads."""
        try:
            self.tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # The peer has not sent its own close_notify; this end does not wait for it.

    async def read(self, size: int = READ_SIZE) -> bytes:
        """See Line."""
        while True:
            parts, here, end = [], 0, ""
            try:
                # TLS returns one record at a time: collect all that are here, so that the link runs once for them.
                while here < size:
                    data = self.tls.read(size - here)
                    if not data:
                        end = "the peer has sent close_notify"
                        break
                    parts.append(data)
                    here += len(data)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                end = str(error)
            if parts:
                # Return the data first; the next read reports the end again.
                return b"".join(parts)
            if end:
                raise LineClosed(end)
            self._send_some()
            # A turn's worth of bytes: these may be thousands of records, which OpenSSL decrypts one by one.
            self._incoming.write(await super().read(TURN))


def load_identity(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a certificate and key in PEM from memory. OpenSSL's interface wants file names, so they pass through memfds."""
    fds = []
    try:
        for data in (certificate, key):
            fd = os.memfd_create("identity", os.MFD_CLOEXEC)
            fds.append(fd)
            os.write(fd, data)
        context.load_cert_chain(*(f"/proc/self/fd/{fd}" for fd in fds))
    finally:
        for fd in fds:
            os.close(fd)


def tune(connection: trio.socket.SocketType) -> None:
    """Make a dead connection break soon, since there is another line to fall back to."""
    options = (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _BROKEN_MS),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    )
    for level, option, value in options:
        connection.setsockopt(level, option, value)


async def in_time(line: TlsLine, seconds: float) -> bool:
    """Do the handshake; return whether it succeeded within `seconds`. Otherwise close the line."""
    try:
        with trio.fail_after(seconds):
            await line.handshake()
    except (LineClosed, trio.TooSlowError):
        line.close()
        return False
    except BaseException:
        line.close()
        raise
    return True
