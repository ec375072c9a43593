"""The contract of log drivers, kept by each driver of the registry."""

import pytest

from appliance.errors import InvalidParameter
from appliance.logdrivers import LogLimits, ShippingDriver, driver_named, driver_names

_EACH = pytest.mark.parametrize("name", driver_names())


@_EACH
def test_a_driver_takes_no_options(name: str) -> None:
    driver = driver_named(name)
    assert driver.name == name
    assert driver.check({}) == []


@_EACH
def test_a_log_that_is_read_or_sent_is_kept_in_a_file(name: str) -> None:
    driver = driver_named(name)
    limits = driver.limits({})
    assert isinstance(limits, LogLimits) == driver.readable
    if isinstance(driver, ShippingDriver):
        assert limits is not None


@pytest.mark.parametrize("name", [name for name in driver_names() if name != "none"])
def test_dockers_common_options_and_texts(name: str) -> None:
    driver = driver_named(name)
    assert driver.check({"mode": "blocking"}) == []
    assert driver.check({"mode": "non-blocking", "max-buffer-size": "1m"}) == []
    for options, text in (
        ({"nonsense": "1"}, f"unknown log opt 'nonsense' for {name} log driver"),
        ({"mode": "sometimes"}, "logger: logging mode not supported: sometimes"),
        ({"max-buffer-size": "1m"}, "logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
    ):
        with pytest.raises(InvalidParameter) as caught:
            driver.check(options)
        assert str(caught.value) == text
    with pytest.raises(InvalidParameter):
        driver.check({"mode": "non-blocking", "max-buffer-size": "x"})
