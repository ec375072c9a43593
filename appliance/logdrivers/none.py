"""none: vchd drops the output; only attached clients see it."""

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
