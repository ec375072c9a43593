"""Times in requests and answers."""

import datetime
import re

from appliance.container.times import parse_duration
from appliance.errors import InvalidParameter

_SECOND = 1_000_000_000


def parse_time(text: str) -> int | None:
    """Unix ns from unix seconds with an optional fraction, or from RFC 3339; None for "" and "0". InvalidParameter for any other text."""
    if not text or text == "0":
        return None
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{0,9})?", text):
        whole, _, fraction = text.partition(".")
        return int(whole) * 1_000_000_000 + int((fraction + "000000000")[:9])
    try:
        return int(datetime.datetime.fromisoformat(text).timestamp() * 1e9)
    except ValueError as error:
        raise InvalidParameter(f'invalid value for time: "{text}"') from error


_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,18}))?)?)?)?(Z|[+-]\d\d:\d\d)?", re.ASCII
)
_UNIX = re.compile(r"(\+?\d{1,18})(?:\.(\d{0,20}))?", re.ASCII)
_PARSE_FAILED = "failed to parse value as time or duration"


def parse_timestamp(text: str, reference: int) -> int:
    """Unix ns from a duration before `reference` (unix ns), a date with an optional time and zone, or unix seconds.

    This is what `until` of lists and prunes takes (moby daemon/internal/timestamp). "0" is 1970. InvalidParameter for any other text.
    """
    if not text.strip():
        raise InvalidParameter(f"{_PARSE_FAILED}: value is empty")
    sign, plain = (-1, text[1:]) if text[0] == "-" else (1, text.removeprefix("+"))
    duration = parse_duration(plain)
    if duration is not None:
        return reference - sign * duration
    if found := _DATE.fullmatch(text):
        date, hour, minute, second, fraction, zone = found.groups("")
        try:
            # Without a zone the time is local.
            moment = datetime.datetime.fromisoformat(
                f"{date}T{hour or '00'}:{minute or '00'}:{second or '00'}{zone.replace('Z', '+00:00')}"
            )
            return int(moment.timestamp()) * _SECOND + int((fraction + "0" * 9)[:9])
        except (ValueError, OverflowError) as error:
            raise InvalidParameter(f"{_PARSE_FAILED}: {error}") from error
    if found := _UNIX.fullmatch(text):
        whole, fraction = found.groups("")
        return int(whole) * _SECOND + int((fraction + "0" * 9)[:9])
    raise InvalidParameter(f'{_PARSE_FAILED}: "{text}" is neither a duration nor a date nor unix seconds')


def ago(time_ns: int, now_ns: int) -> str:
    """The time since then in words (docker/go-units HumanDuration)."""
    seconds = max(0, now_ns - time_ns) // 1_000_000_000
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = round(seconds / 3600)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{seconds // 86400 // 365} years"
