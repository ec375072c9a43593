"""Timestamps and durations in Docker's formats. Pure."""

import datetime
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


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII)


def parse_rfc3339(text: str) -> int | None:
    """Unix ns, also before 1970; None for another text."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    moment, fraction, zone = found.groups("")
    try:
        passed = datetime.datetime.fromisoformat(f"{moment}{zone.replace('Z', '+00:00')}") - _EPOCH
    except (ValueError, OverflowError):
        return None
    return (passed.days * 86_400 + passed.seconds) * 10**9 + int((fraction + "0" * 9)[:9])


def parse_duration(text: str) -> int | None:
    """ "1h30m" as ns, as Go's time.ParseDuration for durations that are not negative; None for another text, and for 292 years and more."""
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        return None
    duration = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))
    return int(duration) if duration < 1 << 63 else None
