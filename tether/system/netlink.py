"""Netlink sockets (netlink(7)): requests go out, and all answers are read here."""

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NLM_F_REPLACE, NLM_F_CREATE = 0x100, 0x400
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 1, 4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SO_SNDBUFFORCE = 32
_HEADER = struct.Struct("IHHII")
# The size of an acknowledgement, and of what a dump or a batch may answer at once.
_ACK_SIZE, _DUMP_SIZE = 64 << 10, 1 << 20


class Message(NamedTuple):
    """`error` is the errno that an NLMSG_ERROR carries: 0 for an acknowledgement, and for all other kinds."""

    kind: int
    sequence: int
    error: int
    payload: bytes


def messages(data: bytes) -> Iterator[Message]:
    """Cut what one recv(2) of a netlink socket returned into its messages."""
    while data:
        length, kind, _, sequence, _ = _HEADER.unpack_from(data)
        payload = data[_HEADER.size : length]
        error = -struct.unpack_from("i", payload)[0] if kind == _NLMSG_ERROR else 0
        yield Message(kind, sequence, error, payload)
        data = data[length + 3 & ~3 :]


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, padded to four bytes."""
    body = struct.pack("HH", 4 + len(value), kind) + value
    return body + bytes(-len(body) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Read a sequence of attributes: {kind: value}."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("HH", data)
        found[kind] = data[4:length]
        data = data[length + 3 & ~3 :]
    return found


class NetlinkSocket:
    """One socket of a netlink family, for one caller at a time. Every call raises OSError with the kernel's errno."""

    def __init__(self, family: int) -> None:
        """`family` as in linux/netlink.h: 0 is NETLINK_ROUTE."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._sequence = 0

    def __enter__(self) -> "NetlinkSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, body: bytes, *, flags: int = 0, subject: str = "") -> None:
        """Send a request and wait for its acknowledgement. `subject` names what an OSError is about."""
        sequence = self._send(kind, _NLM_F_ACK | flags, body)
        for message in self._answers(sequence, _ACK_SIZE):
            if message.kind == _NLMSG_ERROR:
                if message.error:
                    raise OSError(message.error, os.strerror(message.error), subject or None)
                return

    def dump(self, kind: int, body: bytes, *, subject: str = "") -> list[bytes]:
        """Return the payloads that answer a dump request."""
        sequence = self._send(kind, _NLM_F_DUMP, body)
        payloads = []
        for message in self._answers(sequence, _DUMP_SIZE):
            if message.error:
                raise OSError(message.error, os.strerror(message.error), subject or None)
            if message.kind == _NLMSG_DONE:
                break
            payloads.append(message.payload)
        return payloads

    def send_batch(self, batch: bytes) -> None:
        """Send messages that were put together elsewhere, as one. OSError names the first that the kernel refuses.

        The kernel has processed all of them when send(2) returns, and its errors wait in the socket then.
        """
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(batch))
        self._socket.send(batch)
        while True:
            try:
                data = self._socket.recv(_DUMP_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            for message in messages(data):
                if message.error:
                    raise OSError(message.error, f"message {message.sequence}: {os.strerror(message.error)}")

    def _send(self, kind: int, flags: int, body: bytes) -> int:
        self._sequence += 1
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, kind, _NLM_F_REQUEST | flags, self._sequence, 0) + body)
        return self._sequence

    def _answers(self, sequence: int, size: int) -> Iterator[Message]:
        """The messages that answer a request, without end; others are ignored."""
        while True:
            for message in messages(self._socket.recv(size)):
                if message.sequence == sequence:
                    yield message
