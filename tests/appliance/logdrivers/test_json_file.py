"""json-file."""

import pytest

from appliance.errors import InvalidParameter
from appliance.logdrivers.driver import LogLimits
from appliance.logdrivers.json_file import JsonFileDriver
from tests.appliance.logdrivers.records import record_with


def test_limits() -> None:
    """By default those of `local`: a container that floods does not fill the disk. With max-size, moby's single file."""
    driver = JsonFileDriver()
    assert driver.limits({}) == LogLimits(20 << 20, 5)
    assert driver.limits({"max-file": "2"}) == LogLimits(20 << 20, 2)
    assert driver.limits({"max-size": "10m"}) == LogLimits(10 << 20, 1)
    assert driver.limits({"max-size": "10m", "max-file": "3"}) == LogLimits(10 << 20, 3)
    assert driver.limits({"max-size": "-1"}) == LogLimits(0, 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max-file": "0"}, "max-file cannot be less than 1"),
        ({"max-file": "-2"}, "max-file cannot be less than 1"),
        ({"max-file": "x"}, "invalid max-file: x"),
    ],
)
def test_wrong_limits(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        JsonFileDriver().check(options)
    assert str(caught.value) == text


def test_options_without_effect_are_named() -> None:
    assert JsonFileDriver().check({"max-size": "1m", "tag": "{{.Nonsense}}", "labels": "a", "compress": "true"}) == [
        "log option compress was discarded",
        "log option tag was discarded: the log tag's {{.Nonsense}} is not supported",
    ]


def test_attributes_are_those_of_the_container() -> None:
    record = record_with("json-file", {"tag": "{{.Name}}"})
    assert JsonFileDriver().attributes(record) == {"tag": "name"}
