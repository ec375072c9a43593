"""Telnet as ESXi's network serial ports speak it (RFC 854, 855, 856, 858; VMware's option 232). No I/O."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

IAC, DONT, DO, WONT, WILL, SB, SE = 255, 254, 253, 252, 251, 250, 240
BINARY, SUPPRESS_GO_AHEAD, VMWARE = 0, 3, 232
_OFFERED = frozenset((BINARY, SUPPRESS_GO_AHEAD, VMWARE))
# VMware's messages have some dozens of bytes; the longest holds a URI.
_MOST_SUBNEGOTIATION = 4096
_ESCAPED = bytes((IAC, IAC))
# A guest may write nothing but the byte 255, which the host escapes.
_ESCAPED_RUN = re.compile(rb"(?:\xff\xff)+")


class TelnetError(Exception):
    """The peer does not speak telnet."""


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of the serial port."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Subnegotiation:
    """A message of an option. The first byte of a VMware message is its code."""

    option: int
    body: bytes


def escape(data: bytes) -> bytes:
    """Data as binary mode sends it."""
    return data.replace(b"\xff", _ESCAPED)


def subnegotiation(option: int, body: bytes) -> bytes:
    return bytes((IAC, SB, option)) + escape(body) + bytes((IAC, SE))


class Telnet:
    """One end of a connection. Answers to the peer's commands collect in `to_send`."""

    def __init__(self) -> None:
        self._rest = b""
        self._body: bytearray | None = None
        # The state of each option at each end. Only a change is answered, so that the ends do not answer each other for ever.
        self._ours: dict[int, bool] = {}
        self._theirs: dict[int, bool] = {}
        self.to_send = bytearray()

    def open(self) -> None:
        """Request the options that a serial port needs."""
        for option in sorted(_OFFERED):
            self._theirs[option] = True
            self.to_send += bytes((IAC, DO, option))
        for option in (BINARY, SUPPRESS_GO_AHEAD):
            self._ours[option] = True
            self.to_send += bytes((IAC, WILL, option))

    def receive(self, data: bytes) -> Iterator[Data | Subnegotiation]:
        """Return data and messages in received bytes. TelnetError when a subnegotiation is too long."""
        data, self._rest = self._rest + data, b""
        at = 0
        plain = bytearray()
        while at < len(data):
            mark = data.find(IAC, at)
            if mark != at:
                run = data[at : mark if mark >= 0 else len(data)]
                at += len(run)
                self._take(run, plain)
                continue
            if escaped := _ESCAPED_RUN.match(data, at):
                self._take(data[at : escaped.end() : 2], plain)
                at = escaped.end()
                continue
            length = self._command_length(data, at)
            if at + length > len(data):
                self._rest = data[at:]
                break
            found = self._command(data[at : at + length])
            if found is not None:
                if plain:
                    yield Data(bytes(plain))
                    plain.clear()
                yield found
            at += length
        if plain:
            yield Data(bytes(plain))

    def _take(self, run: bytes, plain: bytearray) -> None:
        """Take bytes that are not a command. While a subnegotiation is open they belong to it."""
        if self._body is None:
            plain += run
            return
        self._body += run
        if len(self._body) > _MOST_SUBNEGOTIATION:
            raise TelnetError(f"a subnegotiation of more than {_MOST_SUBNEGOTIATION} bytes")

    @staticmethod
    def _command_length(data: bytes, at: int) -> int:
        if at + 1 < len(data) and data[at + 1] in (WILL, WONT, DO, DONT, SB):
            return 3
        return 2

    def _command(self, command: bytes) -> Subnegotiation | None:
        code = command[1]
        if code == SB:
            self._body = bytearray(command[2:])
        elif code == SE and self._body is not None:
            body, self._body = bytes(self._body), None
            return Subnegotiation(body[0], body[1:])
        elif code in (WILL, WONT):
            self._negotiate(self._theirs, command[2], code == WILL, DO, DONT)
        elif code in (DO, DONT):
            self._negotiate(self._ours, command[2], code == DO, WILL, WONT)
        # Other commands (NOP, AYT, BRK...) have no effect on a serial port.
        return None

    def _negotiate(self, known: dict[int, bool], option: int, wanted: bool, yes: int, no: int) -> None:
        agreed = wanted and option in _OFFERED
        before = known.get(option)
        if before is agreed:
            return
        known[option] = agreed
        if before is not None or wanted:
            self.to_send += bytes((IAC, yes if agreed else no, option))
