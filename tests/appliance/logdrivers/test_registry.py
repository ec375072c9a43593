"""Drivers by name."""

import pytest

from appliance.errors import InvalidParameter
from appliance.logdrivers import DEFAULT, driver_named, driver_names


def test_the_names_that_docker_info_shows() -> None:
    assert driver_names() == ["json-file", "local", "syslog", "none"]
    assert DEFAULT == "json-file"


def test_no_name_is_the_default() -> None:
    assert driver_named("") is driver_named(DEFAULT)


def test_an_unknown_name() -> None:
    with pytest.raises(InvalidParameter) as caught:
        driver_named("gelf")
    assert str(caught.value) == "logger: no log driver named 'gelf' is registered"
