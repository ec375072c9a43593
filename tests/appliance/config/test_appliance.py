"""The settings of the appliance around vchd."""

import pytest

from appliance.config.appliance import APPLIANCE, ROLES
from appliance.errors import InvalidParameter

_ROWS = {row.name: row for row in APPLIANCE}


def test_they_are_properties_and_nothing_of_vchd() -> None:
    for row in APPLIANCE:
        assert not row.flags
        assert not row.key
        assert row.property is not None
        assert row.property.key == row.name


def test_each_network_has_an_address_but_the_bridge() -> None:
    assert {name for name in _ROWS if name.endswith("-address")} == {
        f"{role}-address" for role in ROLES if role != "bridge"
    }


@pytest.mark.parametrize(("name", "bad"), [("hostname", "-"), ("dns", "host"), ("search", "a b"), ("ntp", "x/y")])
def test_malformed_texts_are_refused(name: str, bad: str) -> None:
    with pytest.raises(InvalidParameter):
        _ROWS[name].value_of(bad)
