"""What becomes of each field of a create request. The decision is written beside the field, as `msgspec.Meta`, and read back from there.

A Struct of the API declares `memory: Annotated[Int64, honoured("bytes")] = 0`. `fields_of` lists the fields of such a Struct
for the checks of a request, for FIELDS.md, for `docker update` and for the defaults that `docker inspect` shows.
"""

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import inspect

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Decision(enum.Enum):
    """HONOURED: the field has its effect. WARNED: the answer names the field, which has no effect. REFUSED: status 400."""

    HONOURED = "honoured"
    WARNED = "warned"
    REFUSED = "refused"


class Update(enum.Enum):
    """Whether `docker update` changes a field. A LIMIT also changes in the guest while the container runs."""

    NO = "no"
    YES = "yes"
    LIMIT = "limit"


class Kind(enum.Enum):
    """The JSON of a field, in the words of the error text."""

    TEXT = "a string"
    FLAG = "a boolean"
    NUMBER = "a number"
    TEXTS = "a list of strings"
    COMMAND = "a string or a list of strings"
    TEXT_MAP = "a map of strings"
    MAP = "an object"
    LIST = "a list"


@dataclass(frozen=True, slots=True)
class _Extra:
    """What `Meta.extra` holds. `note` says how the field is honoured, or why it is not. `harmless` values do nothing here."""

    decision: Decision
    note: str = ""
    harmless: tuple[Any, ...] = ()
    update: Update = Update.NO
    accepts_text: bool = False
    shown: Any = None


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a Struct. `name` is its JSON name, `shown` is what inspect shows for the zero value (None: the zero value itself)."""

    name: str
    attribute: str
    kind: Kind
    decision: Decision
    note: str
    harmless: tuple[Any, ...]
    update: Update
    shown: Any


def honoured(
    note: str = "", *, update: Update = Update.NO, accepts_text: bool = False, shown: Any = None
) -> msgspec.Meta:
    """`accepts_text`: a string stands for a list of one string (moby's strslice)."""
    return _meta(_Extra(Decision.HONOURED, note, update=update, accepts_text=accepts_text, shown=shown))


def warned(note: str, *harmless: Any) -> msgspec.Meta:
    return _meta(_Extra(Decision.WARNED, note, harmless))


def refused(note: str, *harmless: Any) -> msgspec.Meta:
    return _meta(_Extra(Decision.REFUSED, note, harmless))


def _meta(extra: _Extra) -> msgspec.Meta:
    return msgspec.Meta(extra={"field": extra})


def go_names(**irregular: str) -> Callable[[str], str]:
    """For a Struct's `rename`: CamelCase of an attribute, and Go's name where that differs (UTSMode, not UtsMode)."""
    return lambda attribute: irregular.get(attribute) or "".join(word.capitalize() for word in attribute.split("_"))


@functools.cache
def fields_of(struct: type[msgspec.Struct]) -> dict[str, Field]:
    """The fields of a Struct that carry a decision, by their JSON names, in the order of the Struct."""
    found = {}
    for member in _struct_type(struct).fields:
        extra = _extra_of(member.type)
        if extra is not None:
            found[member.encode_name] = Field(
                member.encode_name,
                member.name,
                kind_of(member.type),
                extra.decision,
                extra.note,
                extra.harmless,
                extra.update,
                extra.shown,
            )
    return found


def _struct_type(struct: type[msgspec.Struct]) -> inspect.StructType:
    found = inspect.type_info(struct)
    assert isinstance(found, inspect.StructType)
    return found


def _extra_of(kind: inspect.Type) -> _Extra | None:
    return (kind.extra or {}).get("field") if isinstance(kind, inspect.Metadata) else None


def accepts_text(kind: inspect.Type) -> bool:
    """Whether a string stands for a list of one string."""
    extra = _extra_of(kind)
    return extra is not None and extra.accepts_text


def plain(kind: inspect.Type) -> tuple[inspect.Type, bool]:
    """A type without its metadata and without null; whether null is one of its values."""
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    if not isinstance(kind, inspect.UnionType):
        return kind, isinstance(kind, inspect.AnyType)
    others = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
    return others[0], len(others) < len(kind.types)


def kind_of(kind: inspect.Type) -> Kind:
    if accepts_text(kind):
        return Kind.COMMAND
    match plain(kind)[0]:
        case inspect.StrType():
            return Kind.TEXT
        case inspect.BoolType():
            return Kind.FLAG
        case inspect.IntType():
            return Kind.NUMBER
        case inspect.ListType(item_type=inspect.StrType()):
            return Kind.TEXTS
        case inspect.ListType():
            return Kind.LIST
        case inspect.DictType(value_type=inspect.StrType()):
            return Kind.TEXT_MAP
        case _:
            return Kind.MAP
