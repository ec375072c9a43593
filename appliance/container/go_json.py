"""JSON as Go's encoding/json reads it into a struct: member names in any case, and null is the zero value."""

import functools
import re
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from appliance.container.fields import accepts_text, kind_of, plain
from appliance.errors import InvalidParameter

S = TypeVar("S", bound=msgspec.Struct)
_STEP = re.compile(r"\.(?P<name>[^.\[`]+)|\[(?P<index>\d+|\.\.\.)\]")


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of a Struct: its JSON name and its type without null."""

    name: str
    type: inspect.Type
    nullable: bool
    accepts_text: bool


@functools.cache
def _described(struct: type) -> inspect.StructType:
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    return described


@functools.cache
def _members(struct: type) -> dict[str, _Member]:
    """The members of a Struct by their names in lower case."""
    return {
        field.encode_name.lower(): _Member(field.encode_name, *plain(field.type), accepts_text(field.type))
        for field in _described(struct).fields
    }


def fold(given: dict[str, object], struct: type[msgspec.Struct]) -> None:
    """Change an object in place to what `struct` expects. Members that the struct does not have stay as they are.

    Member names get the case of their known names; of several with one name the last counts, as in Go (docker-java sends both
    EnableIPv6 and enableIPv6). Null where the zero value is not null is removed. A string that stands
    for a list of one string becomes that list. Objects that lie deeper are changed the same way.
    """
    members = _members(struct)
    items = list(given.items())
    given.clear()
    for name, value in items:
        member = members.get(name.lower())
        if member is None:
            given[name] = value
        elif value is not None or member.nullable:
            if member.accepts_text and isinstance(value, str):
                value = [value]
            else:
                _fold_value(value, member.type)
            given[member.name] = value


def _fold_value(value: Any, expected: inspect.Type) -> None:
    match expected:
        case inspect.StructType(cls=struct) if isinstance(value, dict):
            fold(value, struct)
        case inspect.ListType(item_type=inner) if isinstance(value, list):
            for item in value:
                _fold_value(item, plain(inner)[0])
        case inspect.DictType(value_type=inner) if isinstance(value, dict):
            for item in value.values():
                _fold_value(item, plain(inner)[0])


def convert(given: dict[str, object], struct: type[S], owner: str = "") -> S:
    """The Struct of a folded object. InvalidParameter names the member that has another type, and `owner` if it has one."""
    try:
        return msgspec.convert(given, struct)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid JSON: {_explain(str(error), struct, owner)}") from error


def _explain(text: str, struct: type[msgspec.Struct], owner: str) -> str:
    """msgspec's error text with its path ("... - at `$.Mounts[0].Type`") in the words of the API."""
    expected: inspect.Type = _described(struct)
    named, subject = expected, owner
    for step in _STEP.finditer(text.rpartition(" - at `$")[2]):
        inner = plain(expected)[0]
        if step["name"]:
            assert isinstance(inner, inspect.StructType)
            owner, subject = subject, step["name"]
            named = expected = next(one.type for one in inner.fields if one.encode_name == subject)
        elif isinstance(inner, inspect.ListType):
            expected = inner.item_type
        elif isinstance(inner, inspect.DictType):
            expected = inner.value_type
    where = f"{subject} in {owner}" if owner else subject
    if expected is named or isinstance(plain(expected)[0], inspect.StrType):
        return f"{where} is not {kind_of(named).value}"
    return f"an item of {where} is not {kind_of(expected).value}"


def decode_stored(data: bytes | msgspec.Raw, struct: type[S]) -> S:
    """A stored row, of this version or an earlier one. Whatever does not fit the Struct is left out: a row always loads."""
    try:
        return msgspec.json.decode(data, type=struct)
    except msgspec.ValidationError:
        given = msgspec.json.decode(data)
    if not isinstance(given, dict):
        given = {}
    fold(given, struct)
    while True:
        try:
            return msgspec.convert(given, struct)
        except msgspec.ValidationError as error:
            if not _remove(given, str(error).rpartition(" - at `$")[2]):
                raise


def _remove(given: Any, path: str) -> bool:
    """Delete the innermost member or item that an error's path names; False when there is none."""
    steps = [step["name"] or step["index"] for step in _STEP.finditer(path)]
    owner, key = None, None
    for step in steps:
        if step == "...":
            break
        place = int(step) if isinstance(given, list) else step
        owner, key = given, place
        given = given[place]
    if owner is None:
        return False
    del owner[key]
    return True
