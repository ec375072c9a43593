"""Options that several log drivers share, with moby's error texts (daemon/logger)."""

from appliance.config import parse_size
from appliance.errors import InvalidParameter
from appliance.logdrivers.driver import LogLimits, Options

# How the guest hands the output over: every driver that takes output has these two.
DELIVERY = frozenset(("mode", "max-buffer-size"))
# moby: daemon/logger/local
DEFAULT_LIMITS = LogLimits(20 << 20, 5)
# Docker's drivers also know these. Our log file has one format and one entry per line, so these options change nothing.
_WITHOUT_EFFECT = frozenset(("compress", "labels", "labels-regex", "env", "env-regex", "tag", "cache-disabled"))


def check_names(driver: str, options: Options, known: frozenset[str]) -> list[str]:
    """Refuse an option that Docker's driver does not have; warn of an option without effect here."""
    for name in options:
        if name not in known | _WITHOUT_EFFECT:
            raise InvalidParameter(f"unknown log opt '{name}' for {driver} log driver")
    return [f"log option {name} was discarded" for name in sorted(options.keys() & (_WITHOUT_EFFECT - known))]


def check_delivery(options: Options) -> None:
    """`mode` and `max-buffer-size`."""
    if options.get("mode", "blocking") not in ("blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {options['mode']}")
    if "max-buffer-size" in options:
        if options.get("mode") != "non-blocking":
            raise InvalidParameter("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        parse_size(options["max-buffer-size"])


def parse_limits(options: Options, default: LogLimits, prefix: str = "") -> LogLimits:
    """`max-size` and `max-file`, whose names may begin with a prefix. A `max-size` of -1 is no limit."""
    text = options.get(f"{prefix}max-size")
    size = default.size if not text else 0 if text == "-1" else parse_size(text)
    files = options.get(f"{prefix}max-file", str(default.files))
    if not files.isdigit() or int(files) < 1:
        raise InvalidParameter(
            "max-file cannot be less than 1" if files.lstrip("-").isdigit() else f"invalid max-file: {files}"
        )
    return LogLimits(size, int(files))


def drops_oldest(options: Options) -> bool:
    """Whether a container that writes faster than vchd reads loses its oldest output, instead of waiting."""
    return options.get("mode") == "non-blocking"


def buffer_bytes(options: Options) -> int:
    """Bytes of output that the guest buffers for vchd; 0: the guest's default."""
    text = options.get("max-buffer-size")
    return parse_size(text) if text else 0
