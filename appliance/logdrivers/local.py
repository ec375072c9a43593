"""local: a log file of at most 100 MiB, unless `max-size` and `max-file` say otherwise."""

from appliance.container.container_record import ContainerRecord
from appliance.logdrivers.attributes import ATTRIBUTES, check_attributes, log_attributes
from appliance.logdrivers.driver import LogLimits, Options
from appliance.logdrivers.options import DEFAULT_LIMITS, DELIVERY, check_delivery, check_names, parse_limits

_OPTIONS = DELIVERY | ATTRIBUTES | {"max-size", "max-file"}


class LocalDriver:
    """As json-file, with a limit by default."""

    name = "local"
    readable = True

    def check(self, options: Options) -> list[str]:
        """See LogDriver."""
        warnings = check_names(self.name, options, _OPTIONS)
        self.limits(options)
        check_delivery(options)
        return warnings + check_attributes(options)

    def limits(self, options: Options) -> LogLimits:
        """See LogDriver."""
        return parse_limits(options, DEFAULT_LIMITS)

    def attributes(self, record: ContainerRecord) -> dict[str, str]:
        """See LogDriver. As in the newest moby (daemon/logger/local), those of json-file."""
        return log_attributes(record)
