"""What the name server reads of a query."""

import struct

import dnslib
from hypothesis import given
from hypothesis import strategies as st

from appliance.network.dns_query import MalformedQuery, parse_query_untrusted


def test_a_query_by_the_bytes_of_other_resolvers() -> None:
    """The case of a name is kept (draft-vixie-dnsext-dns0x20), bytes outside of ASCII match no name, classes are kept."""
    query = parse_query_untrusted(
        struct.pack(">6H", 9, 0x0100, 1, 0, 0, 1) + b"\3BoX\3n\xe9T\0\0\x1c\0\1" + b"\0\0\x29\x10\0" + bytes(6)
    )
    assert (query.name, query.kind, query.datagram, query.recursion) == ("box.n\\xe9t", dnslib.QTYPE.AAAA, 4096, True)
    assert query.reply().pack()[12:26] == b"\3BoX\3n\xe9T\0\0\x1c\0\1"[:14]


def test_queries_of_dnslib_are_read_as_dnslib_reads_them() -> None:
    for kind in ("A", "PTR", "MX"):
        record = dnslib.DNSRecord.question("One.two.example", kind)
        query = parse_query_untrusted(record.pack())
        assert (query.id, query.name, query.datagram) == (record.header.id, "one.two.example", 512)
        answer = dnslib.DNSRecord.parse(query.reply(dnslib.RCODE.NXDOMAIN).pack())
        assert (str(answer.q.qname), answer.q.qtype, answer.header.qr) == ("One.two.example.", record.q.qtype, 1)
        assert answer.header.rcode == dnslib.RCODE.NXDOMAIN


@given(st.binary(max_size=600), st.booleans())
def test_no_bytes_break_the_parser_or_an_answer(data: bytes, header: bool) -> None:
    data = (struct.pack(">6H", 1, 0, 1, 0, 0, 0) if header else b"") + data
    try:
        query = parse_query_untrusted(data)
    except MalformedQuery:
        return
    assert len(query.reply().pack()) <= 12 + 255 + 4
