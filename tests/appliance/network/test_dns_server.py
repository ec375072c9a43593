"""The name server, asked as any resolver asks."""

import os
import socket
import struct
import time
from typing import Any

import dnslib
import pytest
import trio

from appliance.network.dns_server import Answer, NameServer, _fitting, _source


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
    "data",
    [
        b"xy",
        bytes(12),
        b"\x12\x34\x00" * 200,
        struct.pack(">6H", 7, 0, 65535, 0, 0, 0) + b"\xc0\x0c" * 200,
        struct.pack(">6H", 7, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
        struct.pack(">6H", 7, 0, 1, 0, 0, 0) + b"\3box",
        struct.pack(">6H", 7, 0, 1, 0, 0, 0) + b"\1x" * 128 + b"\0\0\1\0\1",
    ],
)
def test_garbage_is_answered_with_an_error(data: bytes) -> None:
    reply = _server(Answer(servers=()))._answer(data, "10.0.0.2")
    assert isinstance(reply, bytes)
    parsed = dnslib.DNSRecord.parse(reply)
    assert parsed.header.rcode in (dnslib.RCODE.FORMERR, dnslib.RCODE.SERVFAIL)
    assert parsed.header.id == int.from_bytes(data[:2], "big")


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 600, dnslib.DNSRecord.question("x").reply().pack()])
def test_what_is_not_a_query_gets_no_answer(data: bytes) -> None:
    """An answer to an answer would go back and forth for ever."""
    assert _server(Answer(servers=()))._answer_or_fail(data, "10.0.0.2") == b""


@pytest.mark.parametrize("shape", ["names in questions", "names in records", "additional records"])
def test_a_query_of_64_kib_costs_no_more_than_another(shape: str) -> None:
    """dnslib took 2.9 s for compressed names, each of which leads to 127 labels."""
    name = b"\1x" * 126 + b"\0"
    question, pointer = name + b"\0\1\0\1", b"\xc0\x0c"
    if shape == "names in questions":
        data = struct.pack(">6H", 7, 0, 10_000, 0, 0, 0) + question + (pointer + b"\0\1\0\1") * 10_000
    elif shape == "names in records":
        data = (
            struct.pack(">6H", 7, 0, 1, 5000, 0, 0)
            + question
            + (pointer + b"\0\5\0\1" + bytes(4) + b"\0\2" + pointer) * 4600
        )
    else:
        data = struct.pack(">6H", 7, 0, 1, 0, 0, 5000) + question + (pointer + b"\0\x29\0\1" + bytes(6)) * 5000
    assert len(data) <= 65535
    server = _server(Answer(("10.0.0.3",) * 100))
    started = time.thread_time()
    reply = server._answer_or_fail(data, "10.0.0.2")
    assert isinstance(reply, bytes)
    _fitting(reply, data)
    assert time.thread_time() - started < 0.05


def test_other_operations_are_not_implemented() -> None:
    other = dnslib.DNSRecord(dnslib.DNSHeader(id=3, opcode=2), q=dnslib.DNSQuestion("x"))
    assert dnslib.DNSRecord.parse(_server(Answer())._answer(other.pack(), "")).header.rcode == dnslib.RCODE.NOTIMP


def test_one_client_does_not_take_all_slots() -> None:
    server = _server(Answer())
    taken = 0
    while server._take_slot("10.0.0.2"):
        taken += 1
    assert taken == 32
    assert server._take_slot("10.0.0.3")
    server._release_slot("10.0.0.2")
    assert server._take_slot("10.0.0.2")
    others = sum(server._take_slot(f"10.0.1.{number}") for number in range(256))
    assert taken + 1 + others == 256
    for number in range(256):
        if server._pending[f"10.0.1.{number}"]:
            server._release_slot(f"10.0.1.{number}")
    assert len([source for source, count in server._pending.items() if count]) == 2


def test_a_query_counts_for_the_tap_that_the_firewall_marked() -> None:
    mark = (socket.SOL_SOCKET, socket.SO_MARK, b"\1\2\3\4")
    assert _source([mark], ("10.0.0.2", 1)) == _source([mark], ("10.0.0.3", 1)) == "mark 01020304"
    # Without a mark, as on vSphere, the address counts.
    assert _source([], ("10.0.0.2", 1)) == "10.0.0.2"
    assert _source([(socket.SOL_SOCKET, socket.SO_MARK, bytes(4))], ("10.0.0.2", 1)) == "10.0.0.2"


@pytest.mark.skipif(os.geteuid() != 0, reason="marks need the rights of root")
async def test_a_guest_does_not_use_up_the_quota_of_a_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> bytes | None:
        await trio.sleep_forever()
        return None

    monkeypatch.setattr("appliance.network.dns_server._ask", never)
    monkeypatch.setattr("appliance.network.dns_server._PORT", 0)
    server = _server(Answer(servers=("192.0.2.1",)))
    sources: list[str] = []
    bound: list[trio.socket.SocketType] = []
    make = trio.socket.socket

    def refuse(source: str) -> bool:
        sources.append(source)
        return False

    def record(*given: Any) -> trio.socket.SocketType:
        bound.append(make(*given))
        return bound[-1]

    monkeypatch.setattr(server, "_take_slot", refuse)
    monkeypatch.setattr(trio.socket, "socket", record)
    async with server.listen("127.0.0.1", "lo"):
        for source in ("127.0.0.2", "127.0.0.3"):
            with socket.socket(type=socket.SOCK_DGRAM) as guest:
                guest.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 7)
                guest.bind((source, 0))
                guest.sendto(dnslib.DNSRecord.question("far").pack(), bound[0].getsockname())
                guest.settimeout(0)
                with trio.fail_after(5):
                    await trio.lowlevel.wait_readable(guest)
    assert sources == ["mark 07000000"] * 2


async def test_queries_over_the_quota_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One guest that waits for a dead server does not hold the network's other guests up."""

    async def never(*_: object, **__: object) -> bytes | None:
        await trio.sleep_forever()
        return None

    monkeypatch.setattr("appliance.network.dns_server._ask", never)
    server = _server(Answer(servers=("192.0.2.1",)))
    with trio.socket.socket(type=socket.SOCK_DGRAM) as listener, trio.socket.socket(type=socket.SOCK_DGRAM) as client:
        await listener.bind(("127.0.0.1", 0))
        await client.connect(listener.getsockname())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server._serve_datagrams, listener, nursery)
            for number in range(33):
                await client.send(dnslib.DNSRecord(dnslib.DNSHeader(id=number), q=dnslib.DNSQuestion("far")).pack())
            with trio.fail_after(5):
                refused = dnslib.DNSRecord.parse(await client.recv(512))
            assert (refused.header.id, refused.header.rcode) == (32, dnslib.RCODE.REFUSED)
            assert server._take_slot("127.0.0.2")
            nursery.cancel_scope.cancel()
    assert server._pending == {"127.0.0.2": 1}


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
