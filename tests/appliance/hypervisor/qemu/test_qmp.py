"""QEMU's messages are checked before use."""

import json

import pytest

from appliance.errors import HypervisorError
from appliance.hypervisor.qemu.qmp import Event, Refused, Returned, command_line, parse_untrusted


def test_a_command_is_one_line() -> None:
    line = command_line("device_del", {"id": "card1\n"})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"execute": "device_del", "arguments": {"id": "card1\n"}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"return": {}}', Returned({})),
        (b'{"return": [1, 2], "id": 5}', Returned([1, 2])),
        (b'{"return": ""}', Returned("")),
        (b'{"event": "STOP", "timestamp": {}}', Event("STOP", "")),
        (b'{"event": "DEVICE_DELETED", "data": {"device": "card1", "path": "/x"}}', Event("DEVICE_DELETED", "card1")),
        (b'{"event": "X", "data": [1]}', Event("X", "")),
        (b'{"error": {"class": "GenericError", "desc": "no"}}', Refused("{'class': 'GenericError', 'desc': 'no'}")),
    ],
)
def test_messages(line: bytes, message: Event | Refused | Returned) -> None:
    assert parse_untrusted(line) == message


def test_texts_of_the_peer_are_bounded() -> None:
    event = parse_untrusted(json.dumps({"event": "E" * 1000, "data": {"device": "d" * 1000}}).encode())
    assert event == Event("E" * 64, "d" * 64)
    refused = parse_untrusted(json.dumps({"error": "e" * 10_000}).encode())
    assert refused == Refused("e" * 500)


@pytest.mark.parametrize(
    "line", [b"", b"hello", b"[]", b"5", b'"x"', b'{"event": 5}', b'{"event": "\xff"}', b"[" * 100_000]
)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(HypervisorError, match="not a message"):
        parse_untrusted(line)
