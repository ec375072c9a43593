"""Timestamps and durations in Docker's formats. Pure."""

import re
import time

ZERO = "0001-01-01T00:00:00Z"
_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")


def rfc3339(time_ns: int) -> str:
    """RFC 3339 with nine digits, UTC; Go's zero time for 0."""
    if not time_ns:
        return ZERO
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09d}Z"


def parse_duration(text: str) -> int | None:
    """ "1h30m" as ns, as Go's time.ParseDuration for durations that are not negative; None for another text."""
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        return None
    return int(sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text)))
