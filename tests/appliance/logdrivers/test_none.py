"""none."""

from appliance.logdrivers.driver import LogDriver
from appliance.logdrivers.none import NoneDriver


def test_nothing_is_kept_and_any_option_is_ignored() -> None:
    driver: LogDriver = NoneDriver()
    assert driver.limits({"max-size": "1m"}) is None
    assert not driver.readable
    assert driver.check({"anything": "at all", "mode": "x"}) == []
