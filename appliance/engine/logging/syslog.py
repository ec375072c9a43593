"""Logs that are sent on to a syslog server. What is kept here is what is sent: a server that is away gets it later."""

import contextlib
import logging
import platform
import ssl
from collections.abc import Callable

import trio

from appliance.container.logconfig import SYSLOG
from appliance.diag.syslog import (
    ERROR,
    INFORMATIONAL,
    Address,
    Formatter,
    fill_tag,
    parse_address,
    parse_facility,
    parse_format,
)
from appliance.engine.model.container import Container
from appliance.streams.logfile import LogFile

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0
# How long what is left at the end of a run is tried for.
_LAST_SECONDS = 10.0
_GOODBYE_SECONDS = 2.0
_BATCH = 500
_LONGEST = 16 << 10


class _Datagrams:
    """A message a datagram."""

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self._socket = connection

    async def send_all(self, data: bytes) -> None:
        await self._socket.send(data)

    async def aclose(self) -> None:
        self._socket.close()


_Stream = trio.abc.SendStream | _Datagrams


async def _connect(address: Address, options: dict[str, str]) -> _Stream:
    """OSError or ssl.SSLError when there is nobody, or not who it should be."""
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


def _verification(options: dict[str, str]) -> ssl.SSLContext:
    """As the options syslog-tls-* say, whose files are the daemon's."""
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


class SyslogShipper:
    """Sends one container's log on, from where it was left: `log.sent` in its folder holds the number of the next entry."""

    def __init__(self, container: Container) -> None:
        config = container.record.host.get("LogConfig") or {}
        options = config.get("Config") or {}
        record = container.record
        values = {
            "ID": record.id[:12],
            "FullID": record.id,
            "Name": record.name,
            "ImageName": record.image,
            "ImageID": record.image_id[7:19],
            "ImageFullID": record.image_id,
            "DaemonName": "vchd",
        }
        self._container = container
        self._address = parse_address(options.get("syslog-address") or "")
        self._formatter = Formatter(
            parse_facility(options.get("syslog-facility") or ""),
            parse_format(options.get("syslog-format") or ""),
            fill_tag(options.get("tag") or "{{.ID}}", values),
            platform.node() or "vch",
        )
        self._mark = container.folder / "log.sent"
        self._options: dict[str, str] = options
        self._stream: _Stream | None = None
        self._complained = False

    @staticmethod
    def wanted(container: Container) -> bool:
        return container.record.log_driver == SYSLOG

    async def run(self) -> None:
        """Until the run is over and its log has been sent, or cannot be."""
        container = self._container
        try:
            await self._send_while(lambda: container.running)
            with trio.move_on_after(_LAST_SECONDS):
                await self._send_while(lambda: False)
        finally:
            with trio.CancelScope(shield=True):
                await self._hang_up()
            container.log_shipped.set()

    async def _hang_up(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with trio.move_on_after(_GOODBYE_SECONDS), contextlib.suppress(OSError, trio.BrokenResourceError):
                await stream.aclose()

    async def _send_while(self, going_on: Callable[[], bool]) -> None:
        """Send what comes until all is sent and nothing more will come."""
        container = self._container
        kept = container.open_log()
        position = self._position(kept)
        while not container.removed:
            news = container.log_news
            goes_on = going_on()
            position = max(position, kept.first)
            if position < kept.entries:
                sent = await self._send(kept, position)
                if sent == position:
                    await trio.sleep(_AGAIN_SECONDS)
                position = sent
            elif not goes_on:
                return
            else:
                await news.wait()

    def _position(self, kept: LogFile) -> int:
        try:
            return min(int(self._mark.read_text()), kept.entries)
        except (OSError, ValueError):
            return self._container.record.run_first_entry

    async def _send(self, kept: LogFile, position: int) -> int:
        """Send some entries; the number of the first that was not."""
        try:
            if self._stream is None:
                self._stream = await _connect(self._address, self._options)
            for entry in kept.iterate(position, min(kept.entries, position + _BATCH)):
                await self._stream.send_all(
                    self._formatter.message(
                        ERROR if entry.stream == 2 else INFORMATIONAL, entry.time_ns, kept.payload(entry)[:_LONGEST]
                    )
                )
                position += 1
            self._complained = False
        except (OSError, ValueError, trio.BrokenResourceError) as error:
            # ValueError: what is no host's name or no file's.
            await self._hang_up()
            if not self._complained:
                log.warning("the log of container %s is not taken: %s", self._container.id[:12], error)
                self._complained = True
        try:
            self._mark.write_text(str(position))
        except OSError as error:
            log.warning("container %s: %s", self._container.id[:12], error)
        return position
