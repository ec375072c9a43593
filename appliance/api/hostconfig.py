"""Which fields of a create request are honoured; the others are refused by name unless they hold what does nothing."""

from typing import Any

from appliance.errors import InvalidParameter

_CONFIG = frozenset((
    "Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Tty", "OpenStdin",
    "StdinOnce", "Env", "Cmd", "Image", "WorkingDir", "Entrypoint", "NetworkDisabled", "Labels", "StopSignal", "StopTimeout",
    "HostConfig", "NetworkingConfig", "Volumes", "Healthcheck", "ArgsEscaped", "OnBuild", "Shell", "MacAddress",
    "name", "PortSpecs",
))  # fmt: skip
_HONOURED = frozenset((
    "Memory", "MemorySwap", "MemoryReservation", "CpuShares", "NanoCpus", "CpuQuota", "CpuPeriod", "CpusetCpus", "PidsLimit",
    "CapAdd", "CapDrop", "Privileged", "ReadonlyRootfs", "Init", "Ulimits", "Tmpfs", "ShmSize", "OomScoreAdj", "GroupAdd",
    "SecurityOpt", "Sysctls", "AutoRemove", "LogConfig", "NetworkMode", "Dns", "DnsSearch", "DnsOptions", "ExtraHosts",
    "RestartPolicy", "ConsoleSize",
))  # fmt: skip
# Fields whose named values mean what happens here anyway.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "MemorySwappiness": (-1,), "IpcMode": ("private", "shareable"), "CgroupnsMode": ("private",), "Isolation": ("default",),
    "PublishAllPorts": (), "VolumeDriver": ("local",), "Runtime": ("runc", "io.containerd.runc.v2", "vch"),
    "MaskedPaths": (), "ReadonlyPaths": (), "UsernsMode": (), "OomKillDisable": (),
}  # fmt: skip
_SECURITY = ("no-new-privileges", "seccomp=unconfined", "seccomp:unconfined", "apparmor=unconfined", "label=disable",
             "label:disable", "apparmor:unconfined")  # fmt: skip
_LOG_DRIVERS = ("", "json-file", "local", "none")
_MIN_MEMORY = 6 << 20


def _is_list_of_strings(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def check_config(config: dict[str, Any]) -> list[str]:
    """Normalise Config in place; return warnings. InvalidParameter names the field that cannot be."""
    warnings = []
    for key in ("Cmd", "Entrypoint"):
        if isinstance(config.get(key), str):
            config[key] = [config[key]]
    for key in ("Cmd", "Entrypoint", "Env"):
        if not _is_list_of_strings(config.get(key)):
            raise InvalidParameter(f"invalid JSON: {key} is not a list of strings")
    for key in ("Hostname", "Domainname", "User", "WorkingDir", "Image", "StopSignal"):
        if not isinstance(config.get(key) or "", str):
            raise InvalidParameter(f"invalid JSON: {key} is not a string")
    for key in ("Labels", "ExposedPorts", "Volumes"):
        if not isinstance(config.get(key) or {}, dict):
            raise InvalidParameter(f"invalid JSON: {key} is not an object")
    for entry in config.get("Env") or ():
        if not entry.partition("=")[0]:
            raise InvalidParameter(f"invalid environment variable: {entry}")
    if len(config.get("Hostname") or "") > 63:
        raise InvalidParameter("invalid hostname: longer than 63 characters")
    working = config.get("WorkingDir")
    if working and not working.startswith("/"):
        raise InvalidParameter(f"the working directory '{working}' is invalid, it needs to be an absolute path")
    warnings += [f"{key} is not known here and was ignored" for key in config if key not in _CONFIG]
    if (config.get("Healthcheck") or {}).get("Test", ["NONE"])[:1] not in ([], ["NONE"]):
        warnings.append("Healthcheck is not supported yet and was ignored")
    if config.get("Volumes"):
        warnings.append("Volumes are not supported yet: what is written there stays in the container's own disk")
    if config.get("MacAddress"):
        raise InvalidParameter("MacAddress is not supported")
    return warnings


def check_host_config(host: dict[str, Any]) -> list[str]:
    """The same for HostConfig."""
    for key, value in host.items():
        if key in _HONOURED or not value or value in _HARMLESS.get(key, ()):
            continue
        if key == "Annotations" or (key in ("MaskedPaths", "ReadonlyPaths") and value):
            raise InvalidParameter(f"{key} is not supported")
        raise InvalidParameter(f"{key} is not supported yet")
    _check_numbers(host)
    mode = host.get("NetworkMode") or "default"
    if mode not in ("default", "bridge", "none"):
        raise InvalidParameter(f"NetworkMode {mode} is not supported yet: use bridge or none")
    for option in host.get("SecurityOpt") or ():
        if option not in _SECURITY and not option.startswith(("no-new-privileges=", "no-new-privileges:")):
            raise InvalidParameter(f"SecurityOpt {option} is not supported")
    driver = (host.get("LogConfig") or {}).get("Type") or ""
    if driver not in _LOG_DRIVERS:
        raise InvalidParameter(f"logger: no log driver named '{driver}' is registered")
    options = set((host.get("LogConfig") or {}).get("Config") or {}) - {"mode"}
    if options:
        raise InvalidParameter(f"log option {', '.join(sorted(options))} is not supported yet")
    policy = host.get("RestartPolicy") or {}
    name, count = policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0
    if name not in ("no", "always", "unless-stopped", "on-failure"):
        raise InvalidParameter(f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', "
                               "or 'unless-stopped'")  # fmt: skip
    if count and name != "on-failure":
        raise InvalidParameter("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if host.get("AutoRemove") and name != "no":
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
    return []


def _check_numbers(host: dict[str, Any]) -> None:
    for key in ("Memory", "MemorySwap", "MemoryReservation", "CpuShares", "NanoCpus", "CpuQuota", "CpuPeriod", "PidsLimit",
                "ShmSize", "OomScoreAdj"):  # fmt: skip
        if not isinstance(host.get(key) or 0, int):
            raise InvalidParameter(f"invalid JSON: {key} is not a number")
    memory, swap = host.get("Memory") or 0, host.get("MemorySwap") or 0
    if memory and memory < _MIN_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if memory > 1 << 42:
        raise InvalidParameter("Memory is larger than any machine can be")
    if swap > 0 and not memory:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < swap < memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not -1000 <= (host.get("OomScoreAdj") or 0) <= 1000:
        raise InvalidParameter(f"Invalid value {host['OomScoreAdj']}, range for oom score adj is [-1000, 1000]")
    for limit in host.get("Ulimits") or ():
        if not isinstance(limit, dict) or not isinstance(limit.get("Name"), str):
            raise InvalidParameter("invalid JSON: malformed Ulimits")
        if limit.get("Hard", 0) != -1 and limit.get("Soft", 0) > limit.get("Hard", 0):
            raise InvalidParameter("ulimit soft limit must be less than or equal to hard limit: "
                                   f"{limit.get('Soft')} > {limit.get('Hard')}")  # fmt: skip
