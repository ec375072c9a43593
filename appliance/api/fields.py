"""The fields of a create request as the API checks them. Their types and decisions are those of the Structs in `container`."""

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from appliance.container.config import ContainerConfig
from appliance.container.fields import Decision, Kind, fields_of
from appliance.container.go_json import convert, fold
from appliance.container.host_config import HostConfig
from appliance.errors import InvalidParameter
from appliance.http import Request

_INTRODUCTION = """# What becomes of the fields of a create request

API 1.22 to 1.51. *Honoured*: the field does what Docker's documentation says. *Refused*: a value that would have an effect is
answered with 400 and the field's name. *Warned*: the field is accepted, named in `Warnings`, and has no effect. An unknown field
causes a warning. `document` in `fields.py` writes this file from `container/config.py` and `container/host_config.py`.

| field | decision | how, or why not |
|---|---|---|"""

S = TypeVar("S", bound=msgspec.Struct)
_TEXT_KINDS = frozenset((Kind.TEXT, Kind.TEXTS, Kind.COMMAND, Kind.TEXT_MAP))

CONFIG = fields_of(ContainerConfig)
HOST = fields_of(HostConfig)


def document() -> str:
    """The text of FIELDS.md."""
    rows = [
        f"| `{place}.{field.name}` | {field.decision.value} | {field.note} |"
        for place, table in (("Config", CONFIG), ("HostConfig", HOST))
        for field in table.values()
    ]
    return "\n".join([_INTRODUCTION, *rows, ""])


def fold_names(given: dict[str, Any], known: Iterable[str]) -> None:
    """Give fields the case of their known names, in place: Go takes them in any, and clients make use of it."""
    names = {name.lower(): name for name in known}
    for name in list(given):
        proper = names.get(name.lower(), name)
        if proper != name:
            value = given.pop(name)
            given.setdefault(proper, value)


async def read_object(request: Request, names: Iterable[str]) -> dict[str, Any]:
    """A body that is an object, its fields in the case of these names. InvalidParameter when it is something else."""
    body = await request.json()
    if not isinstance(body, dict):
        raise InvalidParameter("invalid JSON: the body is not an object")
    fold_names(body, names)
    return body


async def read_struct(
    request: Request, struct: type[S], complaint: str = "the body is not an object", *, optional: bool = False
) -> S:
    """A body that is an object, as a Struct. InvalidParameter names a malformed member; `complaint` is the text for another body.

    `optional`: a request without a body means an empty object.
    """
    body = await request.json()
    if body is None and optional:
        body = {}
    if not isinstance(body, dict):
        raise InvalidParameter(f"invalid JSON: {complaint}")
    fold(body, struct)
    for name, value in body.items():
        if isinstance(value, dict) and _has_nul(value):
            raise InvalidParameter(f"invalid JSON: {name} is not {Kind.TEXT_MAP.value}")
    return convert(body, struct)


def text_map(body: dict[str, Any], key: str) -> dict[str, str]:
    """A member that maps strings to strings, {} when it is absent. InvalidParameter when it is something else."""
    value = body.get(key) or {}
    if not isinstance(value, dict) or not all(_is_text(text) for text in value.values()):
        raise InvalidParameter(f"invalid JSON: {key} is not {Kind.TEXT_MAP.value}")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def decode(given: dict[str, Any], struct: type[S]) -> tuple[S, list[str]]:
    """The Struct of an object that a client sent, and warnings. InvalidParameter names the field that is malformed or refused.

    `given` is folded in place (see `go_json.fold`).
    """
    fold(given, struct)
    table = fields_of(struct)
    for name, field in table.items():
        if field.kind in _TEXT_KINDS and _has_nul(given.get(name)):
            raise InvalidParameter(f"invalid JSON: {name} is not {field.kind.value}")
    decoded = convert(given, struct)
    warnings = []
    for name, value in given.items():
        found = table.get(name)
        if not value:
            continue
        if found is None:
            warnings.append(f"{name} is not known here and was ignored")
        elif value in found.harmless:
            continue
        elif found.decision is Decision.REFUSED:
            raise InvalidParameter(f"{name} is not supported: {found.note}")
        elif found.decision is Decision.WARNED:
            warnings.append(f"{name} was discarded: {found.note}")
    return decoded, warnings


def _has_nul(value: Any) -> bool:
    """Whether a text, or a text of a list or map, contains a NUL: no program of the guest can receive it."""
    match value:
        case str():
            return "\0" in value
        case list():
            return any(isinstance(item, str) and "\0" in item for item in value)
        case dict():
            return any(isinstance(item, str) and "\0" in item for item in value.values())
        case _:
            return False
