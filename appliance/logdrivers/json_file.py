"""json-file, Docker's default: a log file of at most 100 MiB, unless `max-size` and `max-file` say otherwise.

moby's json-file has no limit unless an operator sets one, so that a container fills the disk of its host by its output; Docker's
documentation advises against this default. Here the limit is that of moby's driver local. `max-size=-1` is no limit.
"""

from appliance.container.container_record import ContainerRecord
from appliance.logdrivers.attributes import ATTRIBUTES, check_attributes, log_attributes
from appliance.logdrivers.driver import LogLimits, Options
from appliance.logdrivers.options import DEFAULT_LIMITS, DELIVERY, check_delivery, check_names, parse_limits

_OPTIONS = DELIVERY | ATTRIBUTES | {"max-size", "max-file"}


class JsonFileDriver:
    """Docker's name and options. The file has our own format (`streams/logfile.py`), which `docker logs` hides."""

    name = "json-file"
    readable = True

    def check(self, options: Options) -> list[str]:
        """See LogDriver."""
        warnings = check_names(self.name, options, _OPTIONS)
        self.limits(options)
        check_delivery(options)
        return warnings + check_attributes(options)

    def limits(self, options: Options) -> LogLimits:
        """See LogDriver."""
        # With max-size, one file is moby's default.
        return parse_limits(options, LogLimits(DEFAULT_LIMITS.size, 1) if options.get("max-size") else DEFAULT_LIMITS)

    def attributes(self, record: ContainerRecord) -> dict[str, str]:
        """See LogDriver."""
        return log_attributes(record)
