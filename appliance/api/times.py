"""Times in requests and answers."""

import datetime
import re

from appliance.container.times import parse_duration
from appliance.errors import InvalidParameter


def parse_time(text: str, now: int | None = None) -> int | None:
    """Unix ns from unix seconds with an optional fraction, or from RFC 3339; None for "" and "0".

    With `now`, in unix ns, a duration such as "1h30m" means that long before. InvalidParameter for any other text.
    """
    if not text or text == "0":
        return None
    if now is not None and (duration := parse_duration(text)) is not None:
        return now - duration
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{0,9})?", text):
        whole, _, fraction = text.partition(".")
        return int(whole) * 1_000_000_000 + int((fraction + "000000000")[:9])
    try:
        return int(datetime.datetime.fromisoformat(text).timestamp() * 1e9)
    except ValueError as error:
        raise InvalidParameter(f'invalid value for time: "{text}"') from error


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
