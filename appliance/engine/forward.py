"""Logs that are sent on to a syslog server. What is kept here is what is sent: a server that is away gets it later."""

import logging
import platform
from collections.abc import Callable

import trio

from appliance.container.logconfig import SYSLOG
from appliance.container.syslog import Address, Formatter, fill_tag, parse_address, parse_facility, parse_format
from appliance.engine.record import Container
from appliance.streams.logfile import LogFile

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0
# How long what is left at the end of a run is tried for.
_LAST_SECONDS = 10.0
_BATCH = 500
_LONGEST = 16 << 10


async def _connect(address: Address) -> trio.socket.SocketType:
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


class Forwarder:
    """Sends one container's log on, from where it was left: `log.sent` in its folder holds the number of the next entry."""

    def __init__(self, container: Container) -> None:
        config = container.record.host.get("LogConfig") or {}
        options = config.get("Config") or {}
        record = container.record
        values = {"ID": record.id[:12], "FullID": record.id, "Name": record.name, "ImageName": record.image,
                  "ImageID": record.image_id[7:19], "ImageFullID": record.image_id, "DaemonName": "vchd"}  # fmt: skip
        self._container = container
        self._address = parse_address(options.get("syslog-address") or "")
        self._formatter = Formatter(
            parse_facility(options.get("syslog-facility") or ""), parse_format(options.get("syslog-format") or ""),
            fill_tag(options.get("tag") or "{{.ID}}", values), platform.node() or "vch",
        )  # fmt: skip
        self._mark = container.folder / "log.sent"
        self._socket: trio.socket.SocketType | None = None
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
            if self._socket is not None:
                self._socket.close()
            container.forwarded.set()

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
            if self._socket is None:
                self._socket = await _connect(self._address)
            for entry in kept.iterate(position, min(kept.entries, position + _BATCH)):
                data = self._formatter.message(entry.stream, entry.time_ns, kept.payload(entry)[:_LONGEST])
                view = memoryview(data)
                while view:
                    view = view[await self._socket.send(view) :]
                position += 1
            self._complained = False
        except OSError as error:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            if not self._complained:
                log.warning("the log of container %s is not taken: %s", self._container.id[:12], error)
                self._complained = True
        try:
            self._mark.write_text(str(position))
        except OSError as error:
            log.warning("container %s: %s", self._container.id[:12], error)
        return position
