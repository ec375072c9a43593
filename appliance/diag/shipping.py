"""Sends vchd's own log to a syslog server (`--syslog-address`)."""

import contextlib
import logging
import logging.handlers
import queue
import socket
import ssl
from collections.abc import Iterator

from appliance.config.parsers import check_syslog_server
from appliance.diag.syslog import (
    DEBUG,
    ERROR,
    INFORMATIONAL,
    WARNING,
    Address,
    Formatter,
    parse_address,
    parse_facility,
)

# Lines that wait for a server that is slow or does not answer. Further lines are only in vchd's own log.
_MOST_WAITING = 10_000
_SECONDS = 5.0
_SEVERITIES = ((logging.ERROR, ERROR), (logging.WARNING, WARNING), (logging.INFO, INFORMATIONAL))


def parse_server(text: str) -> Address:
    """The address of a syslog server on the network. InvalidParameter for a malformed one."""
    check_syslog_server(text)
    return parse_address(text)


@contextlib.contextmanager
def shipped(text: str) -> Iterator[None]:
    """Within the block, send everything that is logged to this server ("": no server). A server that does not answer blocks nothing."""
    if not text:
        yield
        return
    address = parse_server(text)
    formatter = Formatter(parse_facility("daemon"), "rfc5424micro", "vchd", socket.gethostname())
    server = _Datagrams(address, formatter) if address.kind == "udp" else _Stream(address, formatter)
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(_MOST_WAITING)
    handler = _Waiting(waiting)
    listener = logging.handlers.QueueListener(waiting, server)
    root = logging.getLogger()
    root.addHandler(handler)
    listener.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(queue.Empty):
            while waiting.full():
                waiting.get_nowait()
        listener.stop()
        server.close()


class _Waiting(logging.handlers.QueueHandler):
    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)


def _lines(record: logging.LogRecord, formatter: Formatter) -> list[bytes]:
    """One message per line: a traceback has many lines."""
    severity = next((severity for level, severity in _SEVERITIES if record.levelno >= level), DEBUG)
    text = f"{record.levelname} {record.name}: {record.getMessage()}"
    now = int(record.created * 1e9)
    return [formatter.message(severity, now, line.encode()) for line in text.splitlines()]


class _Stream(logging.handlers.SocketHandler):
    """Sends by TCP. After a failure it connects again; the pauses between attempts grow."""

    def __init__(self, address: Address, formatter: Formatter) -> None:
        super().__init__(address.host, address.port)
        self._tls = ssl.create_default_context() if address.kind == "tcp+tls" else None
        self._formatter = formatter

    def makeSocket(self, timeout: float = _SECONDS) -> socket.socket:
        """See SocketHandler."""
        plain = super().makeSocket(timeout)
        if self._tls is None:
            return plain
        try:
            return self._tls.wrap_socket(plain, server_hostname=str(self.host))
        except OSError:
            plain.close()
            raise

    def makePickle(self, record: logging.LogRecord) -> bytes:
        """See SocketHandler: the bytes to send for a record."""
        return b"".join(_lines(record, self._formatter))

    def handleError(self, record: logging.LogRecord) -> None:
        """See Handler: logging the error would send another message to the same server."""
        self._give_up()

    def _give_up(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None


class _Datagrams(logging.handlers.DatagramHandler):
    """Sends by UDP, one datagram per line."""

    def __init__(self, address: Address, formatter: Formatter) -> None:
        super().__init__(address.host, address.port)
        self._formatter = formatter

    def makeSocket(self) -> socket.socket:  # type: ignore[override]
        """See SocketHandler. The socket is connected: the first address of the host name is used for all messages."""
        kind, _, _, _, where = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)[0]
        made = socket.socket(kind, socket.SOCK_DGRAM)
        made.connect(where)
        return made

    def emit(self, record: logging.LogRecord) -> None:
        """See Handler."""
        if self.sock is None:
            self.createSocket()
        for line in _lines(record, self._formatter):
            # A host without a server answers with an ICMP error, which a later send reports.
            with contextlib.suppress(OSError):
                if self.sock is not None:
                    self.sock.send(line.rstrip(b"\n"))
