"""LogConfig's options."""

import pytest

from appliance.config import parse_size
from appliance.container.logconfig import LogLimits, buffer_bytes, limits_of
from appliance.errors import InvalidParameter


def test_limits() -> None:
    assert limits_of({}) == LogLimits()
    assert limits_of({"Type": "local"}) == LogLimits(20 << 20, 5)
    assert limits_of({"Config": {"max-size": "10m", "max-file": "3"}}) == LogLimits(10 << 20, 3)
    assert buffer_bytes({"Config": {"max-buffer-size": "4m"}}) == 4 << 20


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("2k", 2048), ("1.5m", 3 << 19), ("1gb", 1 << 30), ("3 kib", 3072)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1q", "m"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_size(text)
