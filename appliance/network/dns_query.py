"""The part of a DNS query that the name server reads: the header, the one question, and the OPT record behind it (RFC 1035, 6891).

A client may send 64 KiB. Everything behind the question is for other servers and is not parsed here: compressed names in thousands of
records cost seconds.
"""

import struct
from dataclasses import dataclass

import dnslib

_HEADER = struct.Struct(">6H")
_OPT = struct.Struct(">BHH")
_MOST_NAME = 255
_MOST_LABEL = 63
_DATAGRAM = 512
_RESPONSE, _OPCODE, _RECURSION = 0x8000, 0x7800, 0x0100


class MalformedQuery(Exception):
    """The bytes are not a query. `code` is the response code for the client, None when the client gets no answer."""

    def __init__(self, code: int | None = dnslib.RCODE.FORMERR) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Query:
    """A query for one name. `datagram` is the size in bytes of the largest datagram that the client takes."""

    id: int
    recursion: bool
    labels: tuple[bytes, ...]
    kind: int
    rclass: int
    datagram: int = _DATAGRAM

    @property
    def name(self) -> str:
        """The name in lower case without the last dot. Bytes outside of ASCII become escapes, so that they match no container."""
        return b".".join(self.labels).decode("ascii", "backslashreplace").lower()

    def reply(self, code: int = dnslib.RCODE.NOERROR) -> dnslib.DNSRecord:
        """An answer without records. It repeats the question as the client wrote it."""
        header = dnslib.DNSHeader(id=self.id, qr=1, rd=self.recursion, ra=1, rcode=code)
        return dnslib.DNSRecord(header, q=dnslib.DNSQuestion(dnslib.DNSLabel(self.labels), self.kind, self.rclass))


def parse_query_untrusted(data: bytes) -> Query:
    """Read a query in constant time. MalformedQuery."""
    if len(data) < _HEADER.size:
        raise MalformedQuery(dnslib.RCODE.FORMERR if len(data) >= 2 else None)
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        # Two servers would answer each other for ever.
        raise MalformedQuery(None)
    if flags & _OPCODE:
        raise MalformedQuery(dnslib.RCODE.NOTIMP)
    if questions != 1:
        raise MalformedQuery
    labels, at = _labels(data, _HEADER.size)
    if at + 4 > len(data):
        raise MalformedQuery
    kind, rclass = struct.unpack_from(">HH", data, at)
    at += 4
    size = _DATAGRAM
    if additional and not answers and not authorities and at + _OPT.size <= len(data):
        root, record, payload = _OPT.unpack_from(data, at)
        if root == 0 and record == dnslib.QTYPE.OPT:
            size = max(_DATAGRAM, payload)
    return Query(number, bool(flags & _RECURSION), labels, kind, rclass, size)


def _labels(data: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    """The labels of an uncompressed name, and the position after it: there is no earlier name that a question could point to."""
    labels: list[bytes] = []
    begin = at
    while at < len(data) and at - begin < _MOST_NAME:
        size = data[at]
        if size > _MOST_LABEL:
            raise MalformedQuery
        at += 1
        if not size:
            return tuple(labels), at
        labels.append(bytes(data[at : at + size]))
        at += size
    raise MalformedQuery
