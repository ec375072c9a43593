"""`filters=`: {"key": ["value"]} or {"key": {"value": true}} (moby api/types/filters)."""

import re
from collections.abc import Callable, Mapping

import msgspec

from appliance.errors import InvalidParameter

Filters = dict[str, list[str]]


def parse_filters(text: str, known: frozenset[str]) -> Filters:
    """The values by key. InvalidParameter for malformed filters, and for keys that are not in `known`."""
    if not text:
        return {}
    try:
        raw = msgspec.json.decode(text)
        parsed = {
            key: [value for value in values if not isinstance(values, dict) or values[value]]
            for key, values in raw.items()
        }
        all_strings = all(isinstance(value, str) for values in parsed.values() for value in values)
    except (msgspec.DecodeError, AttributeError, TypeError) as error:
        raise InvalidParameter(f"invalid filters: {error}") from error
    if not all_strings:
        raise InvalidParameter("invalid filters: values are strings")
    for key in parsed:
        if key not in known:
            raise InvalidParameter(f"invalid filter '{key}'")
    return parsed


def matches_labels(wanted: list[str], labels: Mapping[str, str]) -> bool:
    """Whether the labels have each wanted "key" or "key=value"."""
    for item in wanted:
        key, equals, value = item.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def boolean_filter(filters: Filters, key: str) -> bool | None:
    """The value of a boolean filter, None when it is absent. InvalidParameter when it is not a boolean."""
    values = filters.get(key)
    if not values:
        return None
    if values[0] not in ("true", "false", "1", "0"):
        raise InvalidParameter(f"invalid filter '{key}={values}'")
    return values[0] in ("true", "1")


def matches_label_filters(filters: Filters, labels: Mapping[str, str]) -> bool:
    """Whether labels pass the filters `label` and `label!`."""
    excluded = filters.get("label!")
    return matches_labels(filters.get("label", []), labels) and not (excluded and matches_labels(excluded, labels))


def matches_pattern(wanted: list[str], *names: str) -> bool:
    """Whether a name contains a match of a pattern. InvalidParameter for a malformed regular expression."""
    try:
        return any(re.search(pattern, name) for pattern in wanted for name in names)
    except re.error as error:
        raise InvalidParameter(f"error parsing regexp: {error}") from error


def any_of(wanted: list[str], test: Callable[[str], bool]) -> bool:
    """Whether a wanted value passes the test. Without wanted values everything passes."""
    return not wanted or any(test(value) for value in wanted)
