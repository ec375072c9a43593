"""A user's configuration over an image's (moby daemon/commit.go, merge) and the daemon's. Pure."""

from collections.abc import Sequence

import msgspec

from appliance.container.config import ContainerConfig, HealthConfig
from appliance.container.host_config import HostConfig, Ulimit

# Docker does not inherit `shell`, `stop_timeout` and `on_build`.
_INHERITED = ("user", "working_dir", "stop_signal")


def merge_config(config: ContainerConfig, image: ContainerConfig) -> ContainerConfig:
    """The user's configuration, with what it leaves open taken from the image's. Neither changes."""
    merged = msgspec.structs.replace(config)
    for attribute in _INHERITED:
        if not getattr(config, attribute) and getattr(image, attribute):
            setattr(merged, attribute, getattr(image, attribute))
    if not config.entrypoint:
        if not config.cmd:
            merged.cmd = image.cmd
        if config.entrypoint is None:
            merged.entrypoint = image.entrypoint
    elif config.entrypoint == [""]:
        merged.entrypoint = None
    if image.healthcheck:
        merged.healthcheck = _merge_health(config.healthcheck or HealthConfig(), image.healthcheck)
    own = list(config.env or ())
    names = {entry.partition("=")[0] for entry in own}
    # A name without = removes the variable (docker run -e NAME with NAME unset at the client).
    merged.env = own + [entry for entry in image.env or () if entry.partition("=")[0] not in names]
    merged.labels = (image.labels or {}) | (config.labels or {})
    merged.exposed_ports = (image.exposed_ports or {}) | (config.exposed_ports or {})
    merged.volumes = (image.volumes or {}) | (config.volumes or {}) or None
    return merged


def merge_ulimits(host_config: HostConfig, defaults: Sequence[Ulimit]) -> HostConfig:
    """The container's own ulimits, and the daemon's for the names that it does not set (moby, oci_linux.go, mergeUlimits)."""
    own = host_config.ulimits or []
    names = {limit.name for limit in own}
    added = [limit for limit in defaults if limit.name not in names]
    return msgspec.structs.replace(host_config, ulimits=[*own, *added]) if added else host_config


def _merge_health(own: HealthConfig, image: HealthConfig) -> HealthConfig:
    """Each field for itself: a client that sends only an interval keeps the image's test."""
    merged = msgspec.structs.replace(own)
    for attribute in HealthConfig.__struct_fields__:
        if not getattr(own, attribute) and getattr(image, attribute):
            setattr(merged, attribute, getattr(image, attribute))
    return merged
