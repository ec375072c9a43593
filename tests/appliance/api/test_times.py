"""Times that clients send, and those that they see."""

import pytest

from appliance.api.times import ago, parse_time
from appliance.errors import InvalidParameter

_SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("", None),
        ("0", None),
        ("1", _SECOND),
        ("1700000000.5", 1_700_000_000 * _SECOND + _SECOND // 2),
        ("1700000000.123456789", 1_700_000_000_123_456_789),
        ("1700000000.", 1_700_000_000 * _SECOND),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * _SECOND),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000 * _SECOND),
    ],
)
def test_points_in_time(text: str, time: int | None) -> None:
    assert parse_time(text) == time


def test_durations() -> None:
    now = 1_700_000_000 * _SECOND
    assert parse_time("1h30m", now) == now - 5400 * _SECOND
    assert parse_time("10s", now) == now - 10 * _SECOND
    assert parse_time("1", now) == _SECOND


@pytest.mark.parametrize("text", ["x", "-1", "1e9", "1_000", "10s", "9" * 20, "1.1234567890", "2023-13-01T00:00:00Z"])
def test_texts_that_are_not_times(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r'invalid value for time: "'):
        parse_time(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "Less than a second"),
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (120, "2 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (61 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_ages(seconds: int, words: str) -> None:
    assert ago(0, seconds * _SECOND) == words
