"""Requests of `vch debug`: well-formed ones are read, others are refused."""

import json

import pytest

from appliance.errors import InvalidParameter
from appliance.provision.access import Access, parse

_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBoL vch"
_HASH = "$6$salt$" + "a" * 86


def test_a_request_is_read_as_it_was_written() -> None:
    access = Access("1", 3600, _KEY, _HASH)
    assert parse(access.encode()) == access
    assert parse(Access("2", 0).encode()).seconds == 0


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": 5},
        {"seconds": 10**6},
        {"seconds": "long"},
        {"key": "ssh-rsa AAAA\nroot::0:0"},
        {"key": "command=x ssh-rsa AAAA"},
        {"password_hash": "plain"},
        {"password_hash": _HASH + ":0:0\nother"},
        {"password_hash": "$1$x$y"},
    ],
)
def test_malformed_values_are_refused(change: dict[str, object]) -> None:
    good = json.loads(Access("1", 3600, _KEY, _HASH).encode())
    with pytest.raises(InvalidParameter, match=r"guestinfo\.vch\.debug"):
        parse(json.dumps({**good, **change}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"id": 1}'])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse(text)
