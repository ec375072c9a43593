"""The query parameter `filters`, as moby's daemon/internal/filters (parse_test.go)."""

import time

import pytest

from appliance.api import filters as module
from appliance.api.filters import Filters, parse_filters, parse_number
from appliance.errors import InvalidParameter

_ROUTE = "GET /images/json"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("{}", {}),
        ("null", {}),
        ('{"label":["a","b","a"]}', {"label": ["a", "b"]}),
        ('{"label":{"a":true,"b":false},"since":{}}', {"label": ["a", "b"], "since": []}),
        ('{"label":null,"since":[null]}', {"label": [], "since": [""]}),
    ],
)
def test_both_spellings(text: str, values: dict[str, list[str]]) -> None:
    filters = parse_filters(text, _ROUTE)
    assert {key: filters.values(key) for key in filters} == values
    assert bool(filters) == bool(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"other":["a"]}', "invalid filter 'other'"),
        ('{"Label":["a"]}', "invalid filter 'Label'"),
        ('{"label":[1]}', "invalid filter"),
        ("x", "invalid filter"),
        ("[]", "invalid filter"),
        ("3", "invalid filter"),
        ('{"label":3}', "invalid filter"),
        ('{"label":["a"]', "invalid filter"),
        ('{"label":["a"],"since":{"b":true}}', "invalid filter"),
        ("[" * 100_000, "invalid filter"),
        (f'{{"label":{list(map(str, range(1001)))}}}'.replace("'", '"'), "invalid filter: more than 1000 values"),
    ],
)
def test_malformed_filters(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_filters(text, _ROUTE)
    assert str(caught.value) == message


@pytest.mark.parametrize("route", sorted(module._ACCEPTED))
def test_each_route_accepts_the_keys_of_its_row(route: str) -> None:
    accepted = module._ACCEPTED[route]
    if accepted is None:
        assert "nonsense" in parse_filters('{"nonsense":["x"]}', route)
        return
    for key in accepted.split():
        assert key in parse_filters(f'{{"{key}":["x"]}}', route)
    with pytest.raises(InvalidParameter, match=r"^invalid filter 'nonsense'$"):
        parse_filters('{"nonsense":["x"]}', route)


def test_labels() -> None:
    labels = {"a": "1", "b": ""}

    def passes(text: str) -> bool:
        return parse_filters(text, "POST /containers/prune").labels(labels)

    assert passes("{}")
    assert passes('{"label":["a","a=1","b","b="]}')
    assert not passes('{"label":["a=2"]}')
    assert not passes('{"label":["a","c"]}')
    assert passes('{"label":["a"],"label!":["c"]}')
    assert not passes('{"label!":["b"]}')
    assert passes('{"label!":["a","c"]}')
    # All objects have the labels of an empty list: a prune removes nothing.
    assert not passes('{"label!":[]}')
    assert not passes('{"label!":{}}')


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["true"], True),
        (["1"], True),
        (["false"], False),
        (["0"], False),
        (["true", "1"], True),
        # The CLI adds true to the user's value.
        (["True", "true"], True),
        (["True"], "invalid filter 'd=[True]'"),
        (["yes"], "invalid filter 'd=[yes]'"),
        ([""], "invalid filter 'd=[]'"),
        (["true", "false"], "invalid filter 'd=[true false]'"),
        ([], "invalid filter 'd'"),
    ],
)
def test_booleans(values: list[str], expected: bool | str) -> None:
    filters = Filters({"d": dict.fromkeys(values, True)})
    if isinstance(expected, bool):
        assert filters.boolean("d", not expected) == expected
    else:
        with pytest.raises(InvalidParameter) as caught:
            filters.boolean("d", True)
        assert str(caught.value) == expected
    assert Filters().boolean("d", True)
    with pytest.raises(InvalidParameter):
        Filters({"d": {"true": False}}).boolean("d", True)


def test_values_that_match() -> None:
    filters = Filters({"a": {"one": True, "two": True, "three": False}, "b": {}})
    assert filters.exact("a", "two")
    assert not filters.exact("a", "tw")
    assert not filters.exact("a", "three")
    assert filters.prefix("a", "two and more")
    assert not filters.prefix("a", "tw")
    for key in ("b", "c"):
        assert filters.exact(key, "x")
        assert filters.prefix(key, "x")
    assert "a" not in filters.without("a")


def test_until() -> None:
    assert Filters().until() is None
    before = time.time_ns()
    until = Filters({"until": {"1h": True}}).until()
    assert until is not None
    assert 0 <= until - (before - 3600 * 10**9) < 10**11
    # Not the absence of a bound: an object is never as old.
    assert Filters({"until": {"0": True}}).until() == 0
    for values, message in (
        (("1h", "2h"), "more than one until filter specified"),
        ((), "invalid filter 'until'"),
        (("",), "value is empty"),
        (("soon",), "failed to parse value as time or duration"),
    ):
        with pytest.raises(InvalidParameter, match=message):
            Filters({"until": dict.fromkeys(values, True)}).until()


def test_numbers() -> None:
    assert [parse_number("exited", text) for text in ("3", "-1", "+7")] == [3, -1, 7]
    for text in ("", "x", "1.5", "0x1", "9" * 30, "\u0663"):
        with pytest.raises(InvalidParameter, match=f'invalid filter \'exited.*: strconv.Atoi: parsing "{text}"'):
            parse_number("exited", text)
