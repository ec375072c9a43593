"""Regular expressions that clients send."""

import pytest

from appliance.container import expressions
from appliance.container.expressions import compile_expression, search_names
from appliance.errors import InvalidParameter


@pytest.mark.parametrize("text", ["(", "\\1", "(?=x)", "\ud800", "((a{100}){100}){100}"])
def test_malformed_or_too_large(text: str) -> None:
    assert compile_expression(text) is None


def test_names_that_contain_a_match() -> None:
    names = {"alpha", "beta", "gamma"}
    assert search_names([compile_expression("^al"), compile_expression("m+a$")], names) == {"alpha", "gamma"}
    assert search_names([None], names) == set()


def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "_MOST_SECONDS", -1.0)
    with pytest.raises(InvalidParameter, match="the patterns are too complex"):
        search_names([compile_expression("a")], {"b"})
