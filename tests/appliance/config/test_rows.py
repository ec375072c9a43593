"""From a field to a row of the table: names, kinds, help."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.config.rows import DAEMON, Property, rows_of, setting, with_default
from appliance.errors import InvalidParameter


@dataclass(frozen=True)
class _Model:
    some_text: str = setting("usual", DAEMON, "Some text", choices=("usual", "other"))
    count: int | None = setting(None, DAEMON, "Count", property=Property(label="Count", default="3"))
    place: Path = setting(Path("/x"), DAEMON, "Place")
    items: tuple[str, ...] = setting((), DAEMON, "Item", flags=("--item",), property=Property(label="I", separator=";"))
    enable: bool = setting(False, DAEMON, "Enable")
    keep: bool = setting(True, DAEMON, "Keep")
    other: str = "not a row"


_ROWS = {row.name: row for row in rows_of(_Model)}


def test_fields_without_a_row_are_left_out() -> None:
    assert list(_ROWS) == ["some_text", "count", "place", "items", "enable", "keep"]
    assert _Model().some_text == "usual"


def test_names_and_kinds_come_from_the_field() -> None:
    assert (_ROWS["some_text"].flags, _ROWS["some_text"].key) == (("--some-text",), "some-text")
    assert (_ROWS["items"].flags, _ROWS["items"].key) == (("--item",), "items")
    assert [row.kind for row in _ROWS.values()] == ["text", "number", "path", "list", "on", "on|off"]


def test_properties_are_completed() -> None:
    count, items = _ROWS["count"].property, _ROWS["items"].property
    assert count is not None
    assert items is not None
    assert (count.key, count.category, count.default, count.description) == ("count", DAEMON, "3", "Count.")
    assert (items.default, items.description) == ("", "Item. Separate the values by semicolons.")


def test_values() -> None:
    assert _ROWS["some_text"].value_of("other") == "other"
    assert _ROWS["count"].value_of("7") == 7
    assert _ROWS["place"].value_of("/y") == Path("/y")
    assert _ROWS["keep"].value_of("off") is False


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("some_text", "x", "'x' is not one of usual, other"),
        ("count", "x", "'x' is not a number"),
        ("keep", "x", "'x' is not on or off"),
    ],
)
def test_malformed_values(name: str, text: str, problem: str) -> None:
    with pytest.raises(InvalidParameter, match=problem):
        _ROWS[name].value_of(text)


def test_help_shows_the_default_once() -> None:
    assert _ROWS["some_text"].help_with_default() == "Some text (default: usual)"
    assert _ROWS["place"].help_with_default() == "Place (default: /x)"
    assert _ROWS["enable"].help_with_default() == "Enable"
    assert with_default("Text (default: what the host has)", "x") == "Text (default: what the host has)"
