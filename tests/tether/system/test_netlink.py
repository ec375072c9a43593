"""Netlink answers, from bytes and from the kernel."""

import errno
import struct

import pytest

from tether.system.netlink import Message, NetlinkSocket, attribute, attributes, messages


def _message(kind: int, sequence: int, payload: bytes) -> bytes:
    body = struct.pack("IHHII", 16 + len(payload), kind, 0, sequence, 0) + payload
    return body + bytes(-len(body) % 4)


def test_one_read_holds_several_messages() -> None:
    data = _message(16, 7, b"abc") + _message(2, 7, struct.pack("i", 0)) + _message(2, 8, struct.pack("i", -13))
    assert list(messages(data)) == [
        Message(16, 7, 0, b"abc"),
        Message(2, 7, 0, struct.pack("i", 0)),
        Message(2, 8, 13, struct.pack("i", -13)),
    ]
    assert list(messages(b"")) == []


def test_attributes_are_padded() -> None:
    assert attribute(3, b"lo\0") == struct.pack("HH", 7, 3) + b"lo\0\0"
    assert attribute(4, b"1234") == struct.pack("HH", 8, 4) + b"1234"


def test_attributes_are_read_again() -> None:
    assert attributes(attribute(3, b"lo\0") + attribute(4, b"1234") + attribute(5, b"")) == {
        3: b"lo\0",
        4: b"1234",
        5: b"",
    }
    assert attributes(b"") == {}


def test_a_refusal_carries_errno_and_subject() -> None:
    with NetlinkSocket(0) as netlink, pytest.raises(OSError, match="no-such-link") as caught:
        # RTM_NEWLINK for an index that no link has.
        netlink.request(16, struct.pack("BxHiII", 0, 0, 1 << 30, 0, 0), subject="no-such-link")
    assert caught.value.errno == errno.ENODEV


def test_a_dump_returns_all_payloads() -> None:
    with NetlinkSocket(0) as netlink:
        # RTM_GETLINK.
        links = netlink.dump(18, struct.pack("BxHiII", 0, 0, 0, 0, 0))
    assert 1 in {struct.unpack_from("BxHi", link)[2] for link in links}


def test_a_batch_reports_the_first_error() -> None:
    bad = struct.pack("IHHII", 32, 16, 1 | 4, 9, 0) + struct.pack("BxHiII", 0, 0, 1 << 30, 0, 0)
    with NetlinkSocket(0) as netlink:
        with pytest.raises(OSError, match="message 9: ") as caught:
            netlink.send_batch(bad)
        assert caught.value.errno == errno.ENODEV
        netlink.send_batch(struct.pack("IHHII", 16, 1, 1, 10, 0))
