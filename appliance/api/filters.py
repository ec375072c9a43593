"""The query parameter `filters` of lists, prunes and events: {"key": ["value"]} or {"key": {"value": true}} (moby daemon/internal/filters).

`_ACCEPTED` is the one table of the keys that each route accepts.
"""

import re
import time
from collections.abc import Iterator, Mapping

import msgspec

from appliance.api.times import parse_timestamp
from appliance.container.daemon_objects import asks_for_daemon_objects
from appliance.errors import InvalidParameter

_LISTED_CONTAINERS = (
    "ancestor before exited expose health id is-task isolation label name network publish since status volume"
)
_BUILD_CACHE = "description id inuse parent private shared type label label! unused-for until"
# None: unknown keys pass, and every event matches them.
_ACCEPTED: dict[str, str | None] = {
    "GET /containers/json": _LISTED_CONTAINERS,
    "POST /containers/prune": "label label! until",
    "GET /images/json": "before dangling label label! reference since until",
    "POST /images/prune": "dangling label label! until",
    "GET /images/search": "is-automated is-official stars",
    "GET /networks": "dangling driver id label name scope type",
    "POST /networks/prune": "label label! until",
    "GET /volumes": "dangling driver label name",
    "POST /volumes/prune": "all label label!",
    "POST /build/prune": _BUILD_CACHE,
    "GET /plugins": "capability enabled",
    "GET /nodes": "id label membership name node.label role",
    "GET /services": "id label mode name runtime",
    "GET /tasks": "_up-to-date desired-state id label name node runtime service",
    "GET /secrets": "id label name names",
    "GET /configs": "id label name",
    "GET /events": None,
}
# More than 64 KiB of full IDs; lists compare each value with each object.
_MOST_VALUES = 1000
_TRUE, _FALSE = ("1", "true"), ("0", "false")


class Filters:
    """The values of each key, with the flag that the client gave to the value. A key without values is present, too."""

    def __init__(self, fields: dict[str, dict[str, bool]] | None = None) -> None:
        self._fields = fields or {}

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def __bool__(self) -> bool:
        return bool(self._fields)

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def values(self, key: str) -> list[str]:
        """The values of a key, also those with the flag false."""
        return list(self._fields.get(key, ()))

    def add(self, key: str, value: str) -> None:
        """Add a value to those of the key."""
        self._fields.setdefault(key, {})[value] = True

    def without(self, key: str) -> "Filters":
        """The same filters without a key."""
        return Filters({name: values for name, values in self._fields.items() if name != key})

    def boolean(self, key: str, default: bool) -> bool:
        """The value of a boolean filter. InvalidParameter when its values are not booleans or contradict each other."""
        values = self._fields.get(key)
        if values is None:
            return default
        is_true, is_false = (any(values.get(word) for word in words) for words in (_TRUE, _FALSE))
        if is_true == is_false:
            raise invalid_filter(key, f"[{' '.join(values)}]" if values else "")
        return is_true

    def exact(self, key: str, text: str) -> bool:
        """Whether the text is a value of the key. Every text matches a key without values."""
        values = self._fields.get(key)
        return not values or values.get(text, False)

    def prefix(self, key: str, text: str) -> bool:
        """Whether the text starts with a value of the key. Every text matches a key without values."""
        values = self._fields.get(key)
        return not values or text.startswith(tuple(values))

    def labels(self, labels: Mapping[str, str]) -> bool:
        """Whether labels pass the filters `label` and `label!`."""
        if not self.has_labels("label", labels):
            return False
        return "label!" not in self._fields or not self.has_labels("label!", labels)

    def shows(self, role: str) -> bool:
        """Whether a list shows an object of this role: the daemon's own objects only when the filter `label` asks for them."""
        return not role or asks_for_daemon_objects(self._fields.get("label", ()))

    def has_labels(self, key: str, labels: Mapping[str, str]) -> bool:
        """Whether the labels have each "name" or "name=value" of the key."""
        for item in self._fields.get(key, ()):
            name, equals, value = item.partition("=")
            if name not in labels or (equals and labels[name] != value):
                return False
        return True

    def until(self) -> int | None:
        """The time of the filter `until` of a prune, unix ns. InvalidParameter for more than one time and for other texts."""
        if "until" not in self._fields:
            return None
        values = self.values("until")
        if len(values) > 1:
            raise InvalidParameter("more than one until filter specified")
        if not values:
            raise invalid_filter("until")
        return parse_timestamp(values[0], time.time_ns())


def invalid_filter(key: str, shown: str = "") -> InvalidParameter:
    """The error for a filter, or for the values of a filter, in Docker's words."""
    return InvalidParameter(f"invalid filter '{key}={shown}'" if shown else f"invalid filter '{key}'")


def parse_number(key: str, text: str) -> int:
    """A value that is an integer. InvalidParameter for another text."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise InvalidParameter(f'{invalid_filter(key, text)}: strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def parse_filters(text: str, route: str) -> Filters:
    """The filters of a request to `route`, a row of the table. InvalidParameter for malformed filters and unknown keys."""
    filters = Filters(_decode(text))
    accepted = _ACCEPTED[route]
    if accepted is not None:
        known = accepted.split()
        for key in filters:
            if key not in known:
                raise invalid_filter(key)
    return filters


def _decode(text: str) -> dict[str, dict[str, bool]]:
    if not text:
        return {}
    fields: dict[str, dict[str, bool]]
    try:
        flags = msgspec.json.decode(text, type=dict[str, dict[str, bool | None] | None] | None)
        fields = {
            key: {value: bool(flag) for value, flag in (given or {}).items()} for key, given in (flags or {}).items()
        }
    except (msgspec.MsgspecError, RecursionError):
        try:
            lists = msgspec.json.decode(text, type=dict[str, list[str | None] | None])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise InvalidParameter("invalid filter") from error
        fields = {key: dict.fromkeys((value or "" for value in given or ()), True) for key, given in lists.items()}
    if sum(map(len, fields.values())) > _MOST_VALUES:
        raise InvalidParameter(f"invalid filter: more than {_MOST_VALUES} values")
    return fields
