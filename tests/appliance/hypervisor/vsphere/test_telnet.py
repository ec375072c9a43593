"""The telnet codec: no input breaks it, and it answers only where the protocol requires an answer."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.hypervisor.vsphere.host_connection import _READ
from appliance.hypervisor.vsphere.telnet import (
    BINARY,
    DO,
    DONT,
    IAC,
    SB,
    SE,
    VMWARE,
    WILL,
    WONT,
    Data,
    Subnegotiation,
    Telnet,
    TelnetError,
    escape,
    subnegotiation,
)


def _joined(found: list[Data | Subnegotiation]) -> list[Data | Subnegotiation]:
    """The events, with adjacent pieces of data joined."""
    out: list[Data | Subnegotiation] = []
    for one in found:
        if out and isinstance(one, Data) and isinstance(out[-1], Data):
            out[-1] = Data(out[-1].data + one.data)
        else:
            out.append(one)
    return out


@given(
    st.lists(st.one_of(st.binary(min_size=1).map(Data), st.builds(Subnegotiation, st.integers(0, 255), st.binary()))),
    st.lists(st.integers(1, 7), min_size=1),
)
def test_events_survive_any_split_of_the_bytes(said: list[Data | Subnegotiation], cuts: list[int]) -> None:
    wire = b"".join(escape(one.data) if isinstance(one, Data) else subnegotiation(one.option, one.body) for one in said)
    telnet = Telnet()
    heard: list[Data | Subnegotiation] = []
    at = turn = 0
    while at < len(wire):
        cut = cuts[turn % len(cuts)]
        heard += telnet.receive(wire[at : at + cut])
        at, turn = at + cut, turn + 1
    assert _joined(heard) == _joined(said)


@given(st.lists(st.binary(max_size=64), max_size=20))
def test_garbage_is_survived(pieces: list[bytes]) -> None:
    telnet = Telnet()
    telnet.open()
    sent = len(telnet.to_send)
    for piece in pieces:
        list(telnet.receive(piece))
    # No command gets more than one answer.
    assert len(telnet.to_send) - sent <= sum(map(len, pieces))


def test_options() -> None:
    telnet = Telnet()
    telnet.open()
    telnet.to_send.clear()
    # The peer's agreement to an option that we requested needs no answer.
    list(telnet.receive(bytes((IAC, WILL, BINARY, IAC, DO, BINARY, IAC, WILL, VMWARE))))
    assert not telnet.to_send
    # An unsupported option is refused once.
    list(telnet.receive(bytes((IAC, WILL, 31, IAC, DO, 1)) * 3))
    assert telnet.to_send == bytes((IAC, DONT, 31, IAC, WONT, 1))
    telnet.to_send.clear()
    list(telnet.receive(bytes((IAC, WONT, BINARY, IAC, WONT, 200))))
    assert telnet.to_send == bytes((IAC, DONT, BINARY))


@pytest.mark.parametrize("begun", [b"", bytes((IAC, WONT, BINARY)), bytes((IAC, DONT, BINARY, IAC, DO, BINARY))])
def test_two_ends_do_not_answer_each_other_for_ever(begun: bytes) -> None:
    """RFC 1143: a change that crosses a request began a loop that never ended."""
    first, second = Telnet(), Telnet()
    first.open()
    second.to_send += begun
    for _ in range(10):
        told, first.to_send = bytes(first.to_send), bytearray()
        answer, second.to_send = bytes(second.to_send), bytearray()
        if not told and not answer:
            break
        list(second.receive(told))
        list(first.receive(answer))
    else:
        pytest.fail("they still answer each other")


def test_a_peer_that_changes_its_mind_for_ever() -> None:
    telnet = Telnet()
    with pytest.raises(TelnetError, match="changes of options"):
        list(telnet.receive(bytes((IAC, WILL, BINARY, IAC, WONT, BINARY)) * 1000))


def test_a_subnegotiation_without_end() -> None:
    telnet = Telnet()
    with pytest.raises(TelnetError, match="more than 4096 bytes"):
        list(telnet.receive(bytes((IAC, SB, VMWARE)) + bytes(5000)))


def test_commands_that_mean_nothing_here() -> None:
    assert list(Telnet().receive(b"a\xff\xf1b\xff\xf6c\xff" + bytes((SE,)))) == [Data(b"abc")]


def test_a_guest_that_writes_only_escaped_bytes_costs_no_more_than_another() -> None:
    """Each byte 255 comes as two. It was handled as a command, at a microsecond each."""
    telnet = Telnet()
    data = bytes([IAC, IAC]) * (1 << 20)
    started = time.thread_time()
    found = list(telnet.receive(data + bytes([IAC]))) + list(telnet.receive(bytes([IAC])))
    assert time.thread_time() - started < 0.2
    assert _joined(found) == [Data(b"\xff" * ((1 << 20) + 1))]


def test_a_read_full_of_commands_is_handled_within_a_step() -> None:
    telnet = Telnet()
    data = bytes([IAC, 241]) * (_READ // 2)
    started = time.thread_time()
    assert list(telnet.receive(data)) == []
    assert time.thread_time() - started < 0.05
