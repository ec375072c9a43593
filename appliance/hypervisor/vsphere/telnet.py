"""Telnet as ESXi's network serial ports speak it (RFC 854, 855, 856, 858, 1143; VMware's option 232). No I/O."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

IAC, DONT, DO, WONT, WILL, SB, SE = 255, 254, 253, 252, 251, 250, 240
BINARY, SUPPRESS_GO_AHEAD, VMWARE = 0, 3, 232
_OFFERED = frozenset((BINARY, SUPPRESS_GO_AHEAD, VMWARE))
# VMware's messages have some dozens of bytes; the longest holds a URI.
_MOST_SUBNEGOTIATION = 4096
# A peer may request each of 256 options at both ends, and some of them again.
_MOST_ANSWERS = 1024
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


class _State(Enum):
    """The state of an option at one end. An option that has none is off, and was never requested."""

    REFUSED = auto()
    OFF = auto()
    # This end requested the option. The peer's next word on it is the answer, which must not be answered in turn:
    # else two ends whose requests cross answer each other for ever (RFC 1143).
    REQUESTED = auto()
    ON = auto()


class Telnet:
    """One end of a connection. Answers to the peer's commands collect in `to_send`."""

    def __init__(self) -> None:
        self._rest = b""
        self._body: bytearray | None = None
        self._ours: dict[int, _State] = {}
        self._theirs: dict[int, _State] = {}
        self._answers = 0
        self.to_send = bytearray()

    def open(self) -> None:
        """Request the options that a serial port needs."""
        for option in sorted(_OFFERED):
            self._theirs[option] = _State.REQUESTED
            self.to_send += bytes((IAC, DO, option))
        for option in (BINARY, SUPPRESS_GO_AHEAD):
            self._ours[option] = _State.REQUESTED
            self.to_send += bytes((IAC, WILL, option))

    def receive(self, data: bytes) -> Iterator[Data | Subnegotiation]:
        """Return data and messages in received bytes. TelnetError when a subnegotiation is too long, or options change too often."""
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

    def _negotiate(self, states: dict[int, _State], option: int, wanted: bool, yes: int, no: int) -> None:
        """Take the peer's WILL or DO (`wanted`), WONT or DONT for an option. Only a change that it made is answered."""
        before = states.get(option)
        if before is _State.REQUESTED:
            states[option] = _State.ON if wanted else _State.OFF
        elif wanted and option not in _OFFERED:
            if before is not _State.REFUSED:
                states[option] = _State.REFUSED
                self._answer(no, option)
        elif wanted and before is not _State.ON:
            states[option] = _State.ON
            self._answer(yes, option)
        elif not wanted and before is _State.ON:
            states[option] = _State.OFF
            self._answer(no, option)

    def _answer(self, code: int, option: int) -> None:
        self._answers += 1
        if self._answers > _MOST_ANSWERS:
            raise TelnetError(f"more than {_MOST_ANSWERS} changes of options")
        self.to_send += bytes((IAC, code, option))
