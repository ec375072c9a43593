"""none: vchd drops the output; only attached clients see it."""

from appliance.container.container_record import ContainerRecord
from appliance.logdrivers.driver import Options


class NoneDriver:
    """Docker accepts any option for this driver and ignores it."""

    name = "none"
    readable = False

    def check(self, options: Options) -> list[str]:
        """See LogDriver."""
        return []

    def limits(self, options: Options) -> None:
        """See LogDriver."""

    def attributes(self, record: ContainerRecord) -> dict[str, str]:
        """See LogDriver. As in moby, this driver's log keeps none."""
        return {}
