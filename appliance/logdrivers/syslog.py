"""syslog: vchd keeps the log file and sends its entries to a syslog server. A server that was away gets the rest later.

`docker logs` reads the file (moby's dual logging); `cache-max-size` and `cache-max-file` limit it.
"""

import contextlib
import logging
import platform
import ssl

import trio

from appliance.container.container_record import ContainerRecord
from appliance.diag.syslog import (
    ERROR,
    INFORMATIONAL,
    TAG_VALUES,
    Address,
    Formatter,
    fill_tag,
    parse_address,
    parse_facility,
    parse_format,
)
from appliance.logdrivers.attributes import tag_values
from appliance.logdrivers.driver import ContainerLog, LogLimits, Options
from appliance.logdrivers.options import DELIVERY, check_delivery, check_names, parse_limits
from appliance.streams import stdcopy
from appliance.streams.logfile import LogFile

log = logging.getLogger(__name__)

_OPTIONS = DELIVERY | {
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
    "tag",
    "cache-max-size",
    "cache-max-file",
}
# moby's cache of dual logging has the limits of the local driver.
_CACHE = LogLimits(20 << 20, 5)
_DEFAULT_TAG = "{{.ID}}"
_RETRY_SECONDS = 1.0
_CLOSE_SECONDS = 2.0
_BATCH_ENTRIES = 500
_LONGEST_BYTES = 16 << 10


class SyslogDriver:
    """Docker's options for the syslog driver, and one shipper per run."""

    name = "syslog"
    readable = True

    def check(self, options: Options) -> list[str]:
        """See LogDriver."""
        warnings = check_names(self.name, options, _OPTIONS)
        self.limits(options)
        parse_address(options.get("syslog-address", ""))
        parse_facility(options.get("syslog-facility", ""))
        parse_format(options.get("syslog-format", ""))
        fill_tag(options.get("tag", ""), dict.fromkeys(TAG_VALUES, ""))
        check_delivery(options)
        return warnings

    def limits(self, options: Options) -> LogLimits:
        """See LogDriver."""
        return parse_limits(options, _CACHE, prefix="cache-")

    def attributes(self, record: ContainerRecord) -> dict[str, str]:
        """See LogDriver. As in moby, this driver's log keeps none."""
        return {}

    async def ship(self, log: ContainerLog) -> None:
        """See ShippingDriver."""
        await _Shipper(log).run()


class _Datagrams:
    """One message per datagram."""

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self._socket = connection

    async def send_all(self, data: bytes) -> None:
        await self._socket.send(data)

    async def aclose(self) -> None:
        self._socket.close()


_Stream = trio.abc.SendStream | _Datagrams


async def _connect(address: Address, options: Options) -> _Stream:
    """Connect. OSError or ssl.SSLError when the server does not answer or its certificate is not valid."""
    connection = await _open(address)
    if address.kind in ("udp", "unixgram"):
        return _Datagrams(connection)
    stream = trio.SocketStream(connection)
    if address.kind != "tcp+tls":
        return stream
    try:
        secured = trio.SSLStream(stream, _verification(options), server_hostname=address.host, https_compatible=True)
        await secured.do_handshake()
    except BaseException:
        connection.close()
        raise
    return secured


def _verification(options: Options) -> ssl.SSLContext:
    """The TLS settings of the options syslog-tls-*. vchd reads the files, so the paths are on its host."""
    context = ssl.create_default_context(cafile=options.get("syslog-tls-ca-cert") or None)
    if options.get("syslog-tls-cert"):
        context.load_cert_chain(options["syslog-tls-cert"], options.get("syslog-tls-key"))
    if options.get("syslog-tls-skip-verify", "").lower() in ("1", "true"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _open(address: Address) -> trio.socket.SocketType:
    if address.kind in ("unix", "unixgram"):
        kind = trio.socket.SOCK_DGRAM if address.kind == "unixgram" else trio.socket.SOCK_STREAM
        connection = trio.socket.socket(trio.socket.AF_UNIX, kind)
        where: object = address.path
    else:
        kind = trio.socket.SOCK_DGRAM if address.kind == "udp" else trio.socket.SOCK_STREAM
        ((family, _, _, _, where), *_) = await trio.socket.getaddrinfo(address.host, address.port, type=kind)
        connection = trio.socket.socket(family, kind)
    try:
        await connection.connect(where)
    except BaseException:
        connection.close()
        raise
    return connection


class _Shipper:
    """Sends the log of one run. The file `log.sent` in the container's folder holds the number of the next entry to send."""

    def __init__(self, container_log: ContainerLog) -> None:
        record = container_log.record
        options = record.log_options
        self._log = container_log
        self._address = parse_address(options.get("syslog-address") or "")
        self._formatter = Formatter(
            parse_facility(options.get("syslog-facility") or ""),
            parse_format(options.get("syslog-format") or ""),
            fill_tag(options.get("tag") or _DEFAULT_TAG, tag_values(record)),
            platform.node() or "vch",
        )
        self._position_file = container_log.folder / "log.sent"
        self._options = options
        self._stream: _Stream | None = None
        self._warned = False

    async def run(self) -> None:
        """Send entries until the run has ended and all are sent, or the container is removed."""
        try:
            await self._send_all()
        finally:
            with trio.CancelScope(shield=True):
                await self._close()

    async def _close(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with trio.move_on_after(_CLOSE_SECONDS), contextlib.suppress(OSError, trio.BrokenResourceError):
                await stream.aclose()

    async def _send_all(self) -> None:
        file = self._log.open_log()
        position = self._read_position(file)
        while not self._log.removed:
            # Taken before the checks below: news that arrives between a check and the wait is not missed.
            news = self._log.log_news
            running = self._log.running
            position = max(position, file.first)
            if position < file.entries:
                sent = await self._send(file, position)
                if sent == position:
                    await trio.sleep(_RETRY_SECONDS)
                position = sent
            elif not running:
                return
            else:
                await news.wait()

    def _read_position(self, file: LogFile) -> int:
        try:
            return min(int(self._position_file.read_text()), file.entries)
        except (OSError, ValueError):
            return self._log.record.run_first_entry

    async def _send(self, file: LogFile, position: int) -> int:
        """Send a batch of entries. Return the number of the first entry that was not sent."""
        container_id = self._log.record.id[:12]
        try:
            if self._stream is None:
                self._stream = await _connect(self._address, self._options)
            for entry in file.iterate(position, min(file.entries, position + _BATCH_ENTRIES)):
                severity = ERROR if entry.stream == stdcopy.STDERR else INFORMATIONAL
                for line in file.lines(entry):
                    message = self._formatter.message(severity, entry.time_ns, line[:_LONGEST_BYTES])
                    await self._stream.send_all(message)
                position += 1
            self._warned = False
        except (OSError, ValueError, trio.BrokenResourceError) as error:
            # ValueError: the address is not a valid host name, or a TLS file's name is not a valid path.
            await self._close()
            if not self._warned:
                log.warning("cannot send the log of container %s, will retry: %s", container_id, error)
                self._warned = True
        try:
            self._position_file.write_text(str(position))
        except OSError as error:
            log.warning("cannot save how much of the log of container %s was sent: %s", container_id, error)
        return position
