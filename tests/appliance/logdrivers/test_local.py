"""local."""

from appliance.logdrivers.driver import LogLimits
from appliance.logdrivers.local import LocalDriver
from tests.appliance.logdrivers.records import record_with


def test_100_mib_by_default() -> None:
    driver = LocalDriver()
    assert driver.limits({}) == LogLimits(20 << 20, 5)
    assert driver.limits({"max-size": "-1"}) == LogLimits(0, 5)
    assert driver.limits({"max-size": "1m"}) == LogLimits(1 << 20, 5)
    assert driver.check({"compress": "false"}) == ["log option compress was discarded"]


def test_attributes_are_those_of_json_file() -> None:
    options = {"labels-regex": "a", "tag": "{{.Name}}"}
    assert LocalDriver().check(options) == []
    assert LocalDriver().attributes(record_with("local", options)) == {"tag": "name"}
