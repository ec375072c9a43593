"""A user's configuration over an image's. Pure."""

import msgspec

from appliance.container.config import ContainerConfig

_INHERITED = ("user", "working_dir", "stop_signal", "healthcheck", "stop_timeout", "shell")


def merge_config(config: ContainerConfig, image: ContainerConfig) -> ContainerConfig:
    """The user's configuration over the image's, as moby's runconfig.Merge. Neither changes."""
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
    own = list(config.env or ())
    names = {entry.partition("=")[0] for entry in own}
    # A name without = removes the variable (docker run -e NAME with NAME unset at the client).
    merged.env = [entry for entry in image.env or () if entry.partition("=")[0] not in names] + own
    merged.labels = (image.labels or {}) | (config.labels or {})
    merged.exposed_ports = (image.exposed_ports or {}) | (config.exposed_ports or {})
    merged.volumes = (image.volumes or {}) | (config.volumes or {}) or None
    return merged
