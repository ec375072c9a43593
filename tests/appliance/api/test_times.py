"""Times that clients send, and those that they see."""

import datetime

import pytest

from appliance.api.times import ago, parse_time, parse_timestamp
from appliance.errors import InvalidParameter

_SECOND = 1_000_000_000
_NOW = 1_700_000_000 * _SECOND


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


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1h30m", _NOW - 5400 * _SECOND),
        ("-1h", _NOW + 3600 * _SECOND),
        ("+10s", _NOW - 10 * _SECOND),
        ("0s", _NOW),
        ("0", 0),
        ("1.5", _SECOND * 3 // 2),
        ("1136073845", 1136073845 * _SECOND),
        ("1.12345678901234567890", 1_123_456_789),
        # moby daemon/internal/timestamp, TestParse.
        ("2006-01-02T15:04:05.999999999+07:00", 1136189045_999_999_999),
        ("2006-01-02T15:04:05.999999999Z", 1136214245_999_999_999),
        ("2006-01-02T15:04:05Z", 1136214245 * _SECOND),
        ("2006-01-02T15:04Z", 1136214240 * _SECOND),
        ("2006-01-02T15:04-01:00", 1136217840 * _SECOND),
        ("2006-01-02T15Z", 1136214000 * _SECOND),
        ("2006-01-02Z", 1136160000 * _SECOND),
        ("2006-01-02-07:00", 1136185200 * _SECOND),
    ],
)
def test_timestamps(text: str, time: int) -> None:
    assert parse_timestamp(text, _NOW) == time


def test_a_timestamp_without_a_zone_is_local() -> None:
    local = int(datetime.datetime(2006, 1, 2, 15, 4).timestamp()) * _SECOND
    assert parse_timestamp("2006-01-02T15:04", _NOW) == local
    assert parse_timestamp("2006-01-02T15:04:00.5", _NOW) == local + _SECOND // 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "-1",
        "1_0",
        "1e9",
        "\u0661",
        "9" * 400 + "h",
        "9" * 30,
        "1." + "1" * 21,
        "2006-01-02T15:04:0Z",
        "2006-13-01",
        "2006-01-02z",
    ],
)
def test_texts_that_are_no_timestamps(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^failed to parse value as time or duration: "):
        parse_timestamp(text, _NOW)


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
