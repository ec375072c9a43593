"""`filters=`: {"key": ["value"]} or {"key": {"value": true}} (moby api/types/filters)."""

import re
from collections.abc import Callable, Mapping

import msgspec

from appliance.errors import InvalidParameter

Filters = dict[str, list[str]]


def parse_filters(text: str, known: frozenset[str]) -> Filters:
    """InvalidParameter for what is no filter, and for keys that this list does not know."""
    if not text:
        return {}
    try:
        raw = msgspec.json.decode(text)
        parsed = {
            key: [value for value in values if not isinstance(values, dict) or values[value]]
            for key, values in raw.items()
        }
        sound = all(isinstance(value, str) for values in parsed.values() for value in values)
    except (msgspec.DecodeError, AttributeError, TypeError) as error:
        raise InvalidParameter(f"invalid filters: {error}") from error
    if not sound:
        raise InvalidParameter("invalid filters: values are strings")
    for key in parsed:
        if key not in known:
            raise InvalidParameter(f"invalid filter '{key}'")
    return parsed


def matches_labels(wanted: list[str], labels: Mapping[str, str]) -> bool:
    """Every "key" or "key=value" is there."""
    for item in wanted:
        key, equals, value = item.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def switch_of(filters: Filters, key: str) -> bool | None:
    """A filter that is true or false; None when it is not given. InvalidParameter when it is neither."""
    values = filters.get(key)
    if not values:
        return None
    if values[0] not in ("true", "false", "1", "0"):
        raise InvalidParameter(f"invalid filter '{key}={values}'")
    return values[0] in ("true", "1")


def labels_are_wanted(filters: Filters, labels: Mapping[str, str]) -> bool:
    """By `label`, and not by `label!`."""
    unwanted = filters.get("label!")
    return matches_labels(filters.get("label", []), labels) and not (unwanted and matches_labels(unwanted, labels))


def matches_pattern(wanted: list[str], *names: str) -> bool:
    """One of the regular expressions is found in one of the names. InvalidParameter for a bad one."""
    try:
        return any(re.search(pattern, name) for pattern in wanted for name in names)
    except re.error as error:
        raise InvalidParameter(f"error parsing regexp: {error}") from error


def any_of(wanted: list[str], test: Callable[[str], bool]) -> bool:
    return not wanted or any(test(value) for value in wanted)
