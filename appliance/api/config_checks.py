"""The Config of a create request, decoded and checked. Texts are Docker's where dockerd refuses the same."""

import re
from typing import Any

from appliance.api.fields import decode
from appliance.container.config import ContainerConfig, HealthConfig
from appliance.container.signals import parse_signal
from appliance.errors import InvalidParameter

_MILLISECOND = 1_000_000


def decode_config(given: dict[str, Any]) -> tuple[ContainerConfig, list[str]]:
    """The Config that a client sent, and warnings. InvalidParameter names the field that is malformed, refused or invalid."""
    config, warnings = decode(given, ContainerConfig)
    for entry in config.env or ():
        if not entry.partition("=")[0]:
            raise InvalidParameter(f"invalid environment variable: {entry}")
    if len(config.hostname) > 63:
        raise InvalidParameter("invalid hostname: longer than 63 characters")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.stop_signal:
        parse_signal(config.stop_signal)
    for port in config.exposed_ports or ():
        if not re.fullmatch(r"[0-9]+(-[0-9]+)?(/(tcp|udp|sctp))?", port, re.IGNORECASE):
            raise InvalidParameter(f"invalid port specification: {port!r}")
    check_mac(config.mac_address or "")
    if config.healthcheck == HealthConfig():
        # The image's health check holds.
        config.healthcheck = None
    _check_health(config.healthcheck or HealthConfig())
    return config, warnings


def check_mac(text: str) -> None:
    if text and not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", text):
        raise InvalidParameter(f"invalid MAC address: {text}")


def _check_health(health: HealthConfig) -> None:
    """As moby's validateHealthCheck."""
    for name, duration in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if duration and duration < _MILLISECOND:
            raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
    if (health.retries or 0) < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")
