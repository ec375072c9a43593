"""What a create request says, held against what there is. Texts are Docker's where it refuses the same."""

import ipaddress
import json
import os
import re
from typing import Any

from appliance.api.fields import CONFIG, HOST, check_fields, fold_names
from appliance.container.links import parse_link
from appliance.container.mounts import check_mounts
from appliance.container.seccomp import parse_profile
from appliance.container.signals import parse_signal
from appliance.errors import InvalidParameter
from appliance.logdrivers import driver_named
from appliance.network.ports import parse_bindings

_SECURITY_OFF = (
    "apparmor=unconfined",
    "apparmor:unconfined",
    "label=disable",
    "label:disable",
    "systempaths=unconfined",
)
_RUNTIMES = ("runc", "io.containerd.runc.v2", "vch")
_MIN_MEMORY = 6 << 20
_MILLISECOND = 1_000_000


def check_config(config: dict[str, Any]) -> list[str]:
    """Normalise Config in place; return warnings. InvalidParameter names the field that cannot be."""
    warnings = check_fields(config, CONFIG)
    for key in ("Cmd", "Entrypoint"):
        if isinstance(config.get(key), str):
            config[key] = [config[key]]
    for entry in config.get("Env") or ():
        if not entry.partition("=")[0]:
            raise InvalidParameter(f"invalid environment variable: {entry}")
    if len(config.get("Hostname") or "") > 63:
        raise InvalidParameter("invalid hostname: longer than 63 characters")
    working = config.get("WorkingDir")
    if working and not working.startswith("/"):
        raise InvalidParameter(f"the working directory '{working}' is invalid, it needs to be an absolute path")
    if config.get("StopSignal"):
        parse_signal(config["StopSignal"])
    for port in config.get("ExposedPorts") or ():
        if not re.fullmatch(r"[0-9]+(-[0-9]+)?(/(tcp|udp|sctp))?", port, re.IGNORECASE):
            raise InvalidParameter(f"invalid port specification: {port!r}")
    check_mac(config.get("MacAddress") or "")
    _check_health(config.get("Healthcheck") or {})
    return warnings


def _check_health(health: dict[str, Any]) -> None:
    """As moby's validateHealthCheck."""
    test = health.get("Test") or []
    if not isinstance(test, list) or not all(isinstance(word, str) for word in test):
        raise InvalidParameter("invalid JSON: Test in Healthcheck is not a list of strings")
    for key in ("Interval", "Timeout", "StartPeriod", "StartInterval"):
        value = health.get(key) or 0
        if not isinstance(value, int):
            raise InvalidParameter(f"invalid JSON: {key} in Healthcheck is not a number")
        if value and value < _MILLISECOND:
            raise InvalidParameter(f"{key} in Healthcheck cannot be less than 1ms")
    retries = health.get("Retries") or 0
    if not isinstance(retries, int) or retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")


_ENDPOINT: dict[str, type] = {
    "IPAMConfig": dict,
    "Links": list,
    "Aliases": list,
    "MacAddress": str,
    "DriverOpts": dict,
    "GwPriority": int,
}
# What a client shows again that it was shown; it says nothing here.
_ENDPOINT_STATE = frozenset(
    (
        "NetworkID",
        "EndpointID",
        "Gateway",
        "IPAddress",
        "IPPrefixLen",
        "IPv6Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "DNSNames",
    )
)


def check_endpoint(settings: Any) -> dict[str, Any]:
    """EndpointSettings as given, without what is no wish. InvalidParameter names what is wrong."""
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise InvalidParameter("invalid JSON: EndpointSettings is no object")
    fold_names(settings, (*_ENDPOINT, *_ENDPOINT_STATE))
    for key, value in settings.items():
        if value is not None and key in _ENDPOINT and not isinstance(value, _ENDPOINT[key]):
            raise InvalidParameter(f"invalid JSON: {key} in EndpointSettings")
        if value and key not in _ENDPOINT and key not in _ENDPOINT_STATE:
            raise InvalidParameter(f"{key} in EndpointSettings is not supported")
    for key in ("Links", "Aliases"):
        if not all(isinstance(item, str) for item in settings.get(key) or ()):
            raise InvalidParameter(f"invalid JSON: {key} in EndpointSettings")
    for address in (settings.get("IPAMConfig") or {}).get("LinkLocalIPs") or ():
        try:
            sound = ipaddress.ip_address(address).is_link_local
        except ValueError:
            sound = False
        if not sound:
            raise InvalidParameter(f"invalid link-local IP address: {address}")
    check_mac(settings.get("MacAddress") or "")
    return {key: value for key, value in settings.items() if key in _ENDPOINT and value}


def check_mac(text: str) -> None:
    if text and not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", text):
        raise InvalidParameter(f"invalid MAC address: {text}")


def check_endpoints(networks: Any) -> list[str]:
    """NetworkingConfig.EndpointsConfig, normalised in place; the warnings."""
    if not isinstance(networks, dict):
        raise InvalidParameter("invalid JSON: EndpointsConfig is no object")
    for name in networks:
        networks[name] = check_endpoint(networks[name])
    return [
        f"endpoint option {option} of network {name} has no effect"
        for name, settings in networks.items()
        for option in settings.get("DriverOpts") or ()
    ]


def check_host_config(host: dict[str, Any]) -> list[str]:
    """The same for HostConfig."""
    warnings = check_fields(host, HOST)
    _check_network(host, warnings)
    warnings += check_mounts(host)
    _check_memory(host)
    _check_cpu(host)
    _check_namespaces(host)
    _check_security(host)
    _check_lists(host)
    _check_restart(host)
    warnings += _check_logging(host.get("LogConfig") or {})
    if (host.get("Runtime") or "vch") not in _RUNTIMES:
        raise InvalidParameter(f"Unknown runtime specified {host['Runtime']}")
    if not -1000 <= (host.get("OomScoreAdj") or 0) <= 1000:
        raise InvalidParameter(f"Invalid value {host['OomScoreAdj']}, range for oom score adj is [-1000, 1000]")
    if (host.get("ShmSize") or 0) < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    return warnings


def _check_logging(config: dict[str, Any]) -> list[str]:
    name, options = config.get("Type") or "", config.get("Config") or {}
    driver = driver_named(name)
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise InvalidParameter("invalid JSON: LogConfig.Config is not a map of strings")
    return driver.check(options)


def _check_network(host: dict[str, Any], warnings: list[str]) -> None:
    mode = host.get("NetworkMode") or "default"
    bindings = host.get("PortBindings") or {}
    parse_bindings(bindings)
    for allocator in bindings.values():
        for place in allocator or ():
            place.setdefault("HostIp", "")
            place.setdefault("HostPort", "")
    for link in host.get("Links") or ():
        parse_link(link)
    if mode == "host":
        if host.get("Links"):
            raise InvalidParameter("conflicting options: host type networking can't be used with links")
        warnings.append(
            "NetworkMode host: the container has a machine of its own on the network bridge; "
            "each port that it listens at, but for loopback addresses, is published on the same port of the host"
        )
    if mode in ("host", "none") and (host.get("PortBindings") or host.get("PublishAllPorts")):
        warnings.append(f"Published ports are discarded when using {mode} network mode")


def _check_memory(host: dict[str, Any]) -> None:
    memory, swap, reserved = (host.get(key) or 0 for key in ("Memory", "MemorySwap", "MemoryReservation"))
    if memory and memory < _MIN_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if memory > 1 << 42:
        raise InvalidParameter("Memory is larger than any machine can be")
    if swap > 0 and not memory:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < swap < memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if reserved and reserved < _MIN_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if 0 < memory < reserved:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")
    if not -1 <= (host.get("MemorySwappiness") or 0) <= 100:
        raise InvalidParameter(f"Invalid value: {host['MemorySwappiness']}, valid memory swappiness range is 0-100")


def _check_cpu(host: dict[str, Any]) -> None:
    nano, quota, period = (host.get(key) or 0 for key in ("NanoCpus", "CpuQuota", "CpuPeriod"))
    cpus = os.cpu_count() or 1
    if nano and period:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if nano and quota:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if nano and not 0 < nano <= cpus * 10**9:
        raise InvalidParameter(f"Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
    if period and not 1000 <= period <= 1_000_000:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    for key, name in (("CpusetCpus", "cpuset cpus"), ("CpusetMems", "cpuset mems")):
        text = host.get(key) or ""
        if text and not re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*", text):
            raise InvalidParameter(f"Invalid value {text} for {name}: invalid format: {text}")
        highest = max((int(number) for number in re.findall(r"[0-9]+", text)), default=0)
        if highest >= (cpus if key == "CpusetCpus" else 1):
            what, last = ("CPUs", cpus - 1) if key == "CpusetCpus" else ("memory nodes", 0)
            raise InvalidParameter(f"Requested {what} are not available - requested {text}, available: 0-{last}")


def _check_namespaces(host: dict[str, Any]) -> None:
    allowed = {
        "IpcMode": ("", "private", "shareable", "none", "host"),
        "PidMode": ("", "host"),
        "UTSMode": ("", "host"),
        "UsernsMode": ("", "host"),
        "CgroupnsMode": ("", "private", "host"),
    }
    for key, modes in allowed.items():
        mode = host.get(key) or ""
        if mode.startswith("container:"):
            raise InvalidParameter(f"{key} {mode} is not supported: another container is another machine")
        if mode not in modes:
            raise InvalidParameter(f"invalid {key}: {mode}")


def _check_security(host: dict[str, Any]) -> None:
    for option in host.get("SecurityOpt") or ():
        match = re.match(r"([a-z-]+)(?:[=:](.*))?$", option, re.DOTALL)
        name, value = (match[1], match[2]) if match else (option, None)
        if name == "no-new-privileges":
            good = value in (None, "true", "false")
        elif name == "seccomp" and value is not None:
            good = True
            if value not in ("unconfined", "builtin"):
                parse_profile(value, host)
        else:
            good = option in _SECURITY_OFF
        if not good:
            raise InvalidParameter(f'invalid --security-opt: "{option}" is not supported')


def _check_lists(host: dict[str, Any]) -> None:
    for entry in host.get("ExtraHosts") or ():
        name, _, address = entry.partition(":")
        if not name or not address:
            raise InvalidParameter(f'bad format for add-host: "{entry}"')
    for limit in host.get("Ulimits") or ():
        if (
            not isinstance(limit, dict)
            or not isinstance(limit.get("Name"), str)
            or not all(isinstance(limit.get(key) or 0, int) for key in ("Soft", "Hard"))
        ):
            raise InvalidParameter("invalid JSON: malformed Ulimits")
        if limit.get("Hard", 0) != -1 and limit.get("Soft", 0) > limit.get("Hard", 0):
            raise InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.get('Soft')} > {limit.get('Hard')}"
            )
    for device in host.get("Devices") or ():
        path = device.get("PathOnHost") if isinstance(device, dict) else None
        if not isinstance(path, str) or not path.startswith("/dev/") or ".." in path:
            raise InvalidParameter(f"invalid device: {json.dumps(device)} names no device of the guest")
    size = host.get("ConsoleSize") or [0, 0]
    if len(size) != 2 or not all(isinstance(n, int) and 0 <= n < 1 << 16 for n in size):
        raise InvalidParameter("invalid ConsoleSize: [height, width]")


def _check_restart(host: dict[str, Any]) -> None:
    policy = host.get("RestartPolicy") or {}
    name, count = policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0
    if name not in ("no", "always", "unless-stopped", "on-failure"):
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', "
            "or 'unless-stopped'"
        )
    if not isinstance(count, int) or count < 0:
        raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    if count and name != "on-failure":
        raise InvalidParameter("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if host.get("AutoRemove") and name != "no":
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
