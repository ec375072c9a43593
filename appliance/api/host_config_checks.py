"""The HostConfig of a create request, decoded and checked. Texts are Docker's where dockerd refuses the same."""

import re
from typing import Any

import msgspec

from appliance.api.fields import decode
from appliance.config import MOST_VM_CPUS
from appliance.container.devices import is_pci_device, pci_devices
from appliance.container.host_config import HostConfig
from appliance.container.links import parse_link
from appliance.container.mounts import check_mounts
from appliance.container.seccomp import parse_profile
from appliance.container.sharing import target_of
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


def decode_host_config(given: dict[str, Any], cpus: int = MOST_VM_CPUS) -> tuple[HostConfig, list[str]]:
    """The HostConfig that a client sent, and warnings. `cpus`: how many a machine can have.

    InvalidParameter names the field that is malformed, refused or invalid.
    """
    host_config, warnings = decode(given, HostConfig)
    return host_config, warnings + check_host_config(host_config, cpus)


def check_host_config(host_config: HostConfig, cpus: int = MOST_VM_CPUS) -> list[str]:
    """Warnings about fields that have less effect than their client expects. InvalidParameter names the field that is invalid."""
    warnings = _check_network(host_config)
    warnings += check_mounts(host_config)
    _check_memory(host_config)
    _check_cpu(host_config, cpus)
    _check_namespaces(host_config)
    _check_security(host_config)
    _check_lists(host_config)
    _check_restart(host_config)
    warnings += driver_named(host_config.log_config.type).check(host_config.log_config.config)
    if (host_config.runtime or "vch") not in _RUNTIMES:
        raise InvalidParameter(f"Unknown runtime specified {host_config.runtime}")
    if not -1000 <= host_config.oom_score_adj <= 1000:
        raise InvalidParameter(f"Invalid value {host_config.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host_config.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    return warnings


def _check_network(host_config: HostConfig) -> list[str]:
    mode = host_config.network_mode or "default"
    parse_bindings(host_config.port_bindings or {})
    for link in host_config.links or ():
        parse_link(link)
    warnings = []
    if mode == "host":
        if host_config.links:
            raise InvalidParameter("conflicting options: host type networking can't be used with links")
        warnings.append(
            "NetworkMode host: the container has a machine of its own on the network bridge; "
            "each port that it listens at, but for loopback addresses, is published on the same port of the host"
        )
    if mode in ("host", "none") and (host_config.port_bindings or host_config.publish_all_ports):
        warnings.append(f"Published ports are discarded when using {mode} network mode")
    return warnings


def _check_memory(host_config: HostConfig) -> None:
    memory, swap, reserved = host_config.memory, host_config.memory_swap, host_config.memory_reservation
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
    if not -1 <= (host_config.memory_swappiness or 0) <= 100:
        raise InvalidParameter(
            f"Invalid value: {host_config.memory_swappiness}, valid memory swappiness range is 0-100"
        )


def _check_cpu(host_config: HostConfig, cpus: int) -> None:
    nano, quota, period = host_config.nano_cpus, host_config.cpu_quota, host_config.cpu_period
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
    _check_cpuset(host_config.cpuset_cpus, "cpuset cpus", "CPUs", cpus)
    _check_cpuset(host_config.cpuset_mems, "cpuset mems", "memory nodes", 1)


def _check_cpuset(text: str, name: str, unit: str, available: int) -> None:
    """`text` is a list of numbers and ranges below `available`: "0-2,4"."""
    if text and not re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*", text):
        raise InvalidParameter(f"Invalid value {text} for {name}: invalid format: {text}")
    if max((int(number) for number in re.findall(r"[0-9]+", text)), default=0) >= available:
        raise InvalidParameter(f"Requested {unit} are not available - requested {text}, available: 0-{available - 1}")


def _check_namespaces(host_config: HostConfig) -> None:
    for name, mode, allowed in (
        ("IPC", host_config.ipc_mode, ("", "private", "shareable", "none", "host")),
        ("PID", host_config.pid_mode, ("", "host")),
        ("UTS", host_config.uts_mode, ("", "host")),
        ("USER", host_config.userns_mode, ("", "host")),
        ("cgroup namespace", host_config.cgroupns_mode, ("", "private", "host")),
    ):
        if mode not in allowed and not (name in ("IPC", "PID") and target_of(mode)):
            raise InvalidParameter(f"invalid {name} mode: {mode}")


def _check_security(host_config: HostConfig) -> None:
    for option in host_config.security_opt or ():
        match = re.match(r"([a-z-]+)(?:[=:](.*))?$", option, re.DOTALL)
        name, value = (match[1], match[2]) if match else (option, None)
        if name == "no-new-privileges":
            good = value in (None, "true", "false")
        elif name == "seccomp" and value is not None:
            good = True
            if value not in ("unconfined", "builtin"):
                parse_profile(value, host_config)
        else:
            good = option in _SECURITY_OFF
        if not good:
            raise InvalidParameter(f'invalid --security-opt: "{option}" is not supported')


def _check_lists(host_config: HostConfig) -> None:
    for entry in host_config.extra_hosts or ():
        name, _, address = entry.partition(":")
        if not name or not address:
            raise InvalidParameter(f'bad format for add-host: "{entry}"')
    for limit in host_config.ulimits or ():
        soft, hard = limit.soft, limit.hard
        if not limit.name:
            raise InvalidParameter("invalid JSON: malformed Ulimits")
        if hard != -1 and soft > hard:
            raise InvalidParameter(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    pci_devices(host_config)
    for device in host_config.devices or ():
        path = device.path_on_host
        if is_pci_device(device):
            continue
        if not path.startswith("/dev/") or ".." in path:
            given = msgspec.json.encode(device).decode()
            raise InvalidParameter(f"invalid device: {given} names no device of the guest")
    size = host_config.console_size or [0, 0]
    if len(size) != 2 or not all(0 <= number < 1 << 16 for number in size):
        raise InvalidParameter("invalid ConsoleSize: [height, width]")


def _check_restart(host_config: HostConfig) -> None:
    policy = host_config.restart_policy
    name, count = policy.name or "no", policy.maximum_retry_count
    if name not in ("no", "always", "unless-stopped", "on-failure"):
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', "
            "or 'unless-stopped'"
        )
    if count < 0:
        raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    if count and name != "on-failure":
        raise InvalidParameter("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if host_config.auto_remove and name != "no":
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
