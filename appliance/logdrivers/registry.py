"""All log drivers. A new driver is a file beside this one and a line in `_DRIVERS`."""

from appliance.errors import InvalidParameter
from appliance.logdrivers.driver import LogDriver
from appliance.logdrivers.json_file import JsonFileDriver
from appliance.logdrivers.local import LocalDriver
from appliance.logdrivers.none import NoneDriver
from appliance.logdrivers.syslog import SyslogDriver

_DRIVERS: tuple[LogDriver, ...] = (
    JsonFileDriver(),
    LocalDriver(),
    SyslogDriver(),
    NoneDriver(),
)
_BY_NAME = {driver.name: driver for driver in _DRIVERS}
DEFAULT = JsonFileDriver.name


def driver_names() -> list[str]:
    """For `docker info`."""
    return list(_BY_NAME)


def driver_named(name: str) -> LogDriver:
    """The driver of this name; "" is the default. InvalidParameter with Docker's text for an unknown name."""
    driver = _BY_NAME.get(name or DEFAULT)
    if driver is None:
        raise InvalidParameter(f"logger: no log driver named '{name}' is registered")
    return driver
