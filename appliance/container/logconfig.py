"""HostConfig.LogConfig: which driver, and how much of a log is kept. Pure."""

from dataclasses import dataclass
from typing import Any

from appliance.config import parse_size
from appliance.diag.syslog import TAG_VALUES, fill_tag, parse_address, parse_facility, parse_format
from appliance.errors import InvalidParameter

SYSLOG = "syslog"
_KEEPING = ("json-file", "local", SYSLOG)
LOG_DRIVERS = (*_KEEPING, "none")
_OPTIONS = frozenset(("max-size", "max-file", "mode", "max-buffer-size"))
# What the drivers of Docker know beyond that: how they write their files and what they add to each line.
_WITHOUT_EFFECT = frozenset(("compress", "labels", "labels-regex", "env", "env-regex", "tag", "cache-disabled"))
_SYSLOG_OPTIONS = frozenset(
    (
        "syslog-address",
        "syslog-facility",
        "syslog-format",
        "tag",
        "mode",
        "max-buffer-size",
        "cache-max-size",
        "cache-max-file",
        "syslog-tls-ca-cert",
        "syslog-tls-cert",
        "syslog-tls-key",
        "syslog-tls-skip-verify",
    )
)
# What the log of a driver that keeps it only beside takes (moby: the cache of dual logging).
_CACHE = (20 << 20, "5")


@dataclass(frozen=True, slots=True)
class LogLimits:
    """A log is `files` pieces of `size` bytes; the oldest is dropped when another begins. `size` 0: no limit."""

    size: int = 0
    files: int = 1


def check_log_config(config: dict[str, Any]) -> list[str]:
    """Warnings. InvalidParameter in Docker's words for what cannot be."""
    kind, options = config.get("Type") or "json-file", config.get("Config") or {}
    if kind not in LOG_DRIVERS:
        raise InvalidParameter(f"logger: no log driver named '{kind}' is registered")
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise InvalidParameter("invalid JSON: LogConfig.Config is not a map of strings")
    if kind == "none":
        return []
    effective = _SYSLOG_OPTIONS if kind == SYSLOG else _OPTIONS
    for name in options:
        if name not in effective | _WITHOUT_EFFECT:
            raise InvalidParameter(f"unknown log opt '{name}' for {kind} log driver")
    limits_of(config)
    if kind == SYSLOG:
        parse_address(options.get("syslog-address", ""))
        parse_facility(options.get("syslog-facility", ""))
        parse_format(options.get("syslog-format", ""))
        fill_tag(options.get("tag", ""), dict.fromkeys(TAG_VALUES, ""))
    if options.get("mode", "blocking") not in ("blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {options['mode']}")
    if "max-buffer-size" in options:
        if options.get("mode") != "non-blocking":
            raise InvalidParameter("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        parse_size(options["max-buffer-size"])
    return [f"log option {name} was discarded" for name in sorted(options.keys() & (_WITHOUT_EFFECT - effective))]


def limits_of(config: dict[str, Any]) -> LogLimits:
    """InvalidParameter in Docker's words."""
    kind, options = config.get("Type") or "json-file", config.get("Config") or {}
    prefix = "cache-" if kind == SYSLOG else ""
    default_size, default_files = (0, "1") if kind == "json-file" else _CACHE
    text = options.get(f"{prefix}max-size")
    size = default_size if not text else 0 if text == "-1" else parse_size(text)
    files = options.get(f"{prefix}max-file", default_files)
    if not files.isdigit() or int(files) < 1:
        raise InvalidParameter(
            "max-file cannot be less than 1" if files.lstrip("-").isdigit() else f"invalid max-file: {files}"
        )
    return LogLimits(size, int(files))


def buffer_bytes(config: dict[str, Any]) -> int:
    """Output that the guest keeps for a slow appliance, 0 for its default."""
    text = (config.get("Config") or {}).get("max-buffer-size")
    return parse_size(text) if text else 0
