"""A user's configuration over an image's. Pure."""

from typing import Any


def merge_config(config: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
    """The user's configuration over the image's, as moby's runconfig.Merge."""
    merged = dict(config)
    for key in ("User", "WorkingDir", "StopSignal", "Healthcheck", "StopTimeout", "Shell"):
        if not merged.get(key) and image.get(key):
            merged[key] = image[key]
    if not merged.get("Entrypoint"):
        if not merged.get("Cmd"):
            merged["Cmd"] = image.get("Cmd")
        if merged.get("Entrypoint") is None:
            merged["Entrypoint"] = image.get("Entrypoint")
    elif merged["Entrypoint"] == [""]:
        merged["Entrypoint"] = None
    names = {entry.partition("=")[0] for entry in merged.get("Env") or ()}
    inherited = [entry for entry in image.get("Env") or () if entry.partition("=")[0] not in names]
    # A name without = takes the variable away (docker run -e NAME with NAME unset at the client).
    merged["Env"] = inherited + list(merged.get("Env") or ())
    merged["Labels"] = {**(image.get("Labels") or {}), **(merged.get("Labels") or {})}
    merged["ExposedPorts"] = {**(image.get("ExposedPorts") or {}), **(merged.get("ExposedPorts") or {})}
    merged["Volumes"] = {**(image.get("Volumes") or {}), **(merged.get("Volumes") or {})} or None
    return merged
