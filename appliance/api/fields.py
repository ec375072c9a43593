"""The fields of a create request as the API checks them. Their types and decisions are those of the Structs in `container`."""

from collections.abc import Iterable
from typing import Any

from appliance.container.config import ContainerConfig
from appliance.container.fields import Decision, Field, Kind, fields_of
from appliance.container.host_config import HostConfig
from appliance.errors import InvalidParameter
from appliance.http import Request

_INTRODUCTION = """# What becomes of the fields of a create request

API 1.22 to 1.51. *Honoured*: the field does what Docker's documentation says. *Refused*: a value that would have an effect is
answered with 400 and the field's name. *Warned*: the field is accepted, named in `Warnings`, and has no effect. An unknown field
causes a warning. `document` in `fields.py` writes this file from `container/config.py` and `container/host_config.py`.

| field | decision | how, or why not |
|---|---|---|"""

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


def _fits(kind: Kind, value: Any) -> bool:
    match kind:
        case Kind.TEXT:
            return isinstance(value, str) and "\0" not in value
        case Kind.FLAG:
            return isinstance(value, bool)
        case Kind.NUMBER:
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
        case Kind.TEXTS:
            return isinstance(value, list) and all(_fits(Kind.TEXT, item) for item in value)
        case Kind.COMMAND:
            return _fits(Kind.TEXT, value) or _fits(Kind.TEXTS, value)
        case Kind.TEXT_MAP:
            return isinstance(value, dict) and all(_fits(Kind.TEXT, item) for item in value.values())
        case Kind.MAP:
            return isinstance(value, dict)
        case Kind.LIST:
            return isinstance(value, list)


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
        raise InvalidParameter("invalid JSON: no object")
    fold_names(body, names)
    return body


def text_map(body: dict[str, Any], key: str) -> dict[str, str]:
    """A member that maps texts to texts, {} when it is not there. InvalidParameter when it is something else."""
    value = body.get(key) or {}
    if not _fits(Kind.TEXT_MAP, value):
        raise InvalidParameter(f"invalid JSON: {key} is not {Kind.TEXT_MAP.value}")
    found: dict[str, str] = value
    return found


def check_fields(given: dict[str, Any], table: dict[str, Field]) -> list[str]:
    """Hold a request against a table; the warnings. InvalidParameter names the field that is malformed or refused."""
    fold_names(given, table)
    warnings = []
    for name, value in given.items():
        field = table.get(name)
        if field is None:
            if value:
                warnings.append(f"{name} is not known here and was ignored")
            continue
        if value is not None and not _fits(field.kind, value):
            raise InvalidParameter(f"invalid JSON: {name} is not {field.kind.value}")
        if not value or value in field.harmless:
            continue
        if field.decision is Decision.REFUSED:
            raise InvalidParameter(f"{name} is not supported: {field.note}")
        if field.decision is Decision.WARNED:
            warnings.append(f"{name} was discarded: {field.note}")
    return warnings
