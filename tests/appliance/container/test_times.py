"""Times and durations as Docker writes them."""

import pytest

from appliance.container.times import ZERO, parse_duration, rfc3339


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, ZERO),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (1_700_000_000_000_000_000, "2023-11-14T22:13:20.000000000Z"),
    ],
)
def test_rfc3339(time_ns: int, text: str) -> None:
    assert rfc3339(time_ns) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1s", 10**9),
        ("1h30m", 5400 * 10**9),
        ("1.5s", 1_500_000_000),
        ("1.h", 3600 * 10**9),
        ("100ms", 100_000_000),
        ("2us", 2000),
        ("2µs", 2000),
        ("7ns", 7),
        ("0s", 0),
        ("1m1s1ms", 61_001_000_000),
        ("", None),
        ("1", None),
        ("-1s", None),
        ("1d", None),
        ("s", None),
        ("1s ", None),
        (".5s", 500_000_000),
        (".s", None),
    ],
)
def test_durations(text: str, expected: int | None) -> None:
    assert parse_duration(text) == expected
