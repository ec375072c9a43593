"""Log drivers: what `--log-driver` and `--log-opt` mean. One file per driver, one line per driver in `registry.py`.

A driver knows its options, how much of a log stays on disk, and whether the log is also sent somewhere. It does not know the engine:
the engine hands over the container's log (`driver.ContainerLog`).
"""

from appliance.logdrivers.attributes import details_prefix
from appliance.logdrivers.driver import ContainerLog, LogDriver, LogLimits, ShippingDriver
from appliance.logdrivers.options import buffer_bytes, drops_oldest
from appliance.logdrivers.registry import DEFAULT, driver_named, driver_names

__all__ = [
    "DEFAULT",
    "ContainerLog",
    "LogDriver",
    "LogLimits",
    "ShippingDriver",
    "buffer_bytes",
    "details_prefix",
    "driver_named",
    "driver_names",
    "drops_oldest",
]
