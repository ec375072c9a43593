"""The bound for the values of a JSON document."""

import pytest

from appliance.streams.json_values import MAX_VALUES, has_too_many_values


@pytest.mark.parametrize("kind", [b"1,", b"[]", b"{}", b"[", b'"",'])
def test_every_kind_of_value_counts(kind: bytes) -> None:
    assert not has_too_many_values(kind * MAX_VALUES)
    assert has_too_many_values(kind * (MAX_VALUES + 1))
