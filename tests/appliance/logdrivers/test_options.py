"""Options that drivers share."""

import pytest

from appliance.config import parse_size
from appliance.errors import InvalidParameter
from appliance.logdrivers.driver import LogLimits
from appliance.logdrivers.options import buffer_bytes, check_names, drops_oldest, parse_limits


def test_limits_may_have_a_prefix() -> None:
    default = LogLimits(7, 2)
    assert parse_limits({"max-size": "1m"}, default, prefix="cache-") == default
    assert parse_limits({"cache-max-size": "1m", "cache-max-file": "9"}, default, prefix="cache-") == LogLimits(
        1 << 20, 9
    )


def test_delivery() -> None:
    assert buffer_bytes({"max-buffer-size": "4m"}) == 4 << 20
    assert buffer_bytes({}) == 0
    assert drops_oldest({"mode": "non-blocking"})
    assert not drops_oldest({"mode": "blocking"})
    assert not drops_oldest({})


def test_an_option_that_a_driver_uses_is_not_discarded() -> None:
    assert check_names("x", {"tag": "", "env": ""}, frozenset(("tag",))) == ["log option env was discarded"]


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("2k", 2048), ("1.5m", 3 << 19), ("1gb", 1 << 30), ("3 kib", 3072)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1q", "m"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_size(text)
