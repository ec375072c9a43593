"""The name server, asked as any resolver asks."""

import struct

import dnslib
import pytest

from appliance.network.dns_server import Answer, NameServer, _fitting


def _server(answer: Answer) -> NameServer:
    return NameServer("net", lambda network, source, name: answer, lambda source, address: "box.net")


def _asked(server: NameServer, name: str, kind: str) -> dnslib.DNSRecord:
    reply = server._answer(dnslib.DNSRecord.question(name, kind).pack(), "10.0.0.2")
    assert isinstance(reply, bytes)
    return dnslib.DNSRecord.parse(reply)


@pytest.mark.parametrize(("kind", "wanted"), [("A", {"10.0.0.3", "10.0.0.4"}), ("AAAA", {"fd00::3"}), ("MX", set())])
def test_addresses_by_version(kind: str, wanted: set[str]) -> None:
    reply = _asked(_server(Answer(("10.0.0.3", "fd00::3", "10.0.0.4"))), "Box", kind)
    assert {str(row.rdata) for row in reply.rr} == wanted
    assert reply.header.rcode == dnslib.RCODE.NOERROR
    assert str(reply.q.qname) == "Box."


def test_each_has_its_turn() -> None:
    server = _server(Answer(("10.0.0.3", "10.0.0.4")))
    assert {str(_asked(server, "both", "A").rr[0].rdata) for _ in range(64)} == {"10.0.0.3", "10.0.0.4"}


def test_backwards() -> None:
    reply = _asked(_server(Answer(servers=())), "3.0.0.10.in-addr.arpa", "PTR")
    assert str(reply.rr[0].rdata) == "box.net."


def test_what_is_not_known_goes_to_others_or_fails() -> None:
    question = dnslib.DNSRecord.question("far").pack()
    assert _server(Answer(servers=("192.0.2.1",)))._answer(question, "10.0.0.2") == ("192.0.2.1",)
    reply = dnslib.DNSRecord.parse(_server(Answer(servers=()))._answer(question, "10.0.0.2"))
    assert reply.header.rcode == dnslib.RCODE.SERVFAIL


@pytest.mark.parametrize(
    "data", [b"", b"x", bytes(12), b"\xff" * 600, struct.pack(">6H", 7, 0, 65535, 0, 0, 0) + b"\xc0\x0c" * 200]
)
def test_garbage_is_answered_with_an_error(data: bytes) -> None:
    reply = _server(Answer(servers=()))._answer(data, "10.0.0.2")
    assert isinstance(reply, bytes)
    assert dnslib.DNSRecord.parse(reply).header.rcode in (dnslib.RCODE.FORMERR, dnslib.RCODE.SERVFAIL)


def test_an_answer_that_is_too_long_comes_by_another_way() -> None:
    server = _server(Answer(tuple(f"10.0.0.{number}" for number in range(200))))
    plain = dnslib.DNSRecord.question("many").pack()
    reply = server._answer(plain, "10.0.0.2")
    assert isinstance(reply, bytes)
    short = dnslib.DNSRecord.parse(_fitting(reply, plain))
    assert (short.header.tc, len(short.rr)) == (1, 0)
    large = dnslib.DNSRecord.question("many")
    large.add_ar(dnslib.EDNS0(udp_len=4096))
    assert _fitting(reply, large.pack()) == reply
