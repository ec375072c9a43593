"""The query parameter `filters`."""

import pytest

from appliance.api.filters import (
    any_of,
    boolean_filter,
    matches_label_filters,
    matches_labels,
    matches_pattern,
    parse_filters,
)
from appliance.errors import InvalidParameter

_KNOWN = frozenset(("name", "label", "dangling"))


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("", {}),
        ("{}", {}),
        ('{"name":["a","b"]}', {"name": ["a", "b"]}),
        ('{"name":{"a":true,"b":false},"label":{}}', {"name": ["a"], "label": []}),
    ],
)
def test_both_spellings(text: str, filters: dict[str, list[str]]) -> None:
    assert parse_filters(text, _KNOWN) == filters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"other":["a"]}', "invalid filter 'other'"),
        ('{"name":[1]}', "invalid filters: values are strings"),
        ("x", "invalid filters: "),
        ("[]", "invalid filters: "),
        ("3", "invalid filters: "),
        ('{"name":3}', "invalid filters: "),
        ('{"name":null}', "invalid filters: "),
        ('{"name":["a"]', "invalid filters: "),
    ],
)
def test_malformed_filters(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_filters(text, _KNOWN)
    assert str(caught.value).startswith(message)


def test_labels() -> None:
    labels = {"a": "1", "b": ""}
    assert matches_labels([], labels)
    assert matches_labels(["a", "a=1", "b", "b="], labels)
    assert not matches_labels(["a=2"], labels)
    assert not matches_labels(["c"], labels)
    assert matches_label_filters({"label": ["a"], "label!": ["c"]}, labels)
    assert not matches_label_filters({"label": ["a"], "label!": ["b"]}, labels)
    assert matches_label_filters({"label!": []}, labels)


def test_booleans() -> None:
    assert [boolean_filter({"d": [value]}, "d") for value in ("true", "1", "false", "0")] == [True, True, False, False]
    assert boolean_filter({}, "d") is None
    assert boolean_filter({"d": []}, "d") is None
    with pytest.raises(InvalidParameter, match="invalid filter 'd="):
        boolean_filter({"d": ["yes"]}, "d")


def test_patterns() -> None:
    assert matches_pattern(["^we.$"], "other", "web")
    assert not matches_pattern(["^we$"], "web")
    with pytest.raises(InvalidParameter, match="error parsing regexp"):
        matches_pattern(["("], "web")


def test_any_of() -> None:
    assert any_of([], lambda value: False)
    assert any_of(["a", "b"], lambda value: value == "b")
    assert not any_of(["a"], lambda value: False)
