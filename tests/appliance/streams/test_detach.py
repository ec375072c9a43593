"""Detach keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import InvalidParameter
from appliance.streams.detach import DetachScanner, parse_keys


@pytest.mark.parametrize(
    ("text", "keys"),
    [("", b"\x10\x11"), ("ctrl-a,x", b"\x01x"), ("ctrl-[", b"\x1b"), ("q", b"q"), ("ctrl-@,ctrl-_", b"\x00\x1f")],
)
def test_keys(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "a,,b", "é"])
def test_bad_keys(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_keys(text)


@given(st.binary(max_size=50), st.lists(st.integers(1, 7), max_size=20))
def test_the_scanner_loses_no_input(data: bytes, cuts: list[int]) -> None:
    scanner = DetachScanner(b"\x10\x11")
    out = b""
    rest = data
    detached = False
    for cut in [*cuts, 100]:
        piece, detached = scanner.feed(rest[:cut])
        out += piece
        rest = rest[cut:]
        if detached:
            break
    before = data.partition(b"\x10\x11")
    if detached:
        assert out == before[0]
    else:
        assert before[1] == b""
        assert out == data.removesuffix(b"\x10")
