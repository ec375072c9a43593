"""A container's configuration as the OCI runtime spec that the tether launches. Pure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from appliance.container.capabilities import capabilities
from appliance.container.mounts import clean
from appliance.container.seccomp import parse_profile
from appliance.errors import InvalidParameter

ROOT = "/run/tether/rootfs"
FILES = "/run/tether/files"

_MASKED = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class ProcessArguments:
    """Entrypoint and command, joined, and where Docker splits them for `inspect`."""

    path: str
    args: tuple[str, ...]


def arguments(config: dict[str, Any]) -> ProcessArguments:
    """InvalidParameter when there is nothing to run."""
    joined = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    if not joined or (len(joined) == 1 and not joined[0]):
        raise InvalidParameter("no command specified")
    return ProcessArguments(joined[0], tuple(joined[1:]))


def _mounts(host: dict[str, Any], own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What every container has, and its `own` instead where it has something else; what is deeper comes later."""
    privileged = bool(host.get("Privileged"))
    mode = ["nosuid", "noexec", "nodev"]
    shm = int(host.get("ShmSize") or 64 << 20)
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": mode},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": [*mode, *(() if privileged else ("ro",))],
        },
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [*mode, *(() if privileged else ("ro",))],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": mode},
    ]
    if host.get("IpcMode") != "none":
        mounts.append(
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*mode, "mode=1777", f"size={shm}"],
            }
        )
    for name in ("resolv.conf", "hostname", "hosts"):
        mounts.append(
            {
                "destination": f"/etc/{name}",
                "type": "bind",
                "source": f"{FILES}/{name}",
                "options": ["rbind", "rprivate"],
            }
        )
    own = list(own)
    for target, options in (host.get("Tmpfs") or {}).items():
        given = [option for option in options.split(",") if option]
        own.append(tmpfs_mount(target, given))
    for device in host.get("Devices") or ():
        # A node of the guest's, as it is there.
        mounts.append(
            {
                "destination": device.get("PathInContainer") or device["PathOnHost"],
                "type": "bind",
                "source": device["PathOnHost"],
                "options": ["bind"],
            }
        )
    if host.get("Init"):
        mounts.append(
            {
                "destination": "/sbin/docker-init",
                "type": "bind",
                "source": "/usr/bin/tini-static",
                "options": ["bind", "ro"],
            }
        )
    taken = {clean(mount["destination"]) for mount in own}
    mounts = [mount for mount in mounts if mount["destination"] not in taken]
    return sorted([*mounts, *own], key=lambda mount: len(clean(mount["destination"]).split("/")))


def tmpfs_mount(target: str, options: Iterable[str]) -> dict[str, Any]:
    """A tmpfs with Docker's defaults."""
    return {
        "destination": target,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "noexec", "nodev", *options],
    }


def _namespaces(host: dict[str, Any]) -> list[str]:
    """Those of its own; what is the host's elsewhere is the guest's here."""
    modes = {"pid": "PidMode", "uts": "UTSMode", "ipc": "IpcMode", "cgroup": "CgroupnsMode"}
    return ["mount", *(name for name, key in modes.items() if host.get(key) != "host")]


def _paths(host: dict[str, Any], key: str, default: tuple[str, ...]) -> list[str]:
    if host.get("Privileged") or "systempaths=unconfined" in (host.get("SecurityOpt") or ()):
        return []
    return list(default) if host.get(key) is None else list(host[key])


def masked_paths(host: dict[str, Any]) -> list[str]:
    """What of the kernel a container does not see."""
    return _paths(host, "MaskedPaths", _MASKED)


def readonly_paths(host: dict[str, Any]) -> list[str]:
    return _paths(host, "ReadonlyPaths", _READ_ONLY)


# What of HostConfig becomes a limit, and can be changed while the container runs.
LIMITS = frozenset(
    (
        "Memory",
        "MemorySwap",
        "MemoryReservation",
        "CpuShares",
        "NanoCpus",
        "CpuQuota",
        "CpuPeriod",
        "CpusetCpus",
        "CpusetMems",
        "PidsLimit",
    )
)


def resources_of(host: dict[str, Any]) -> dict[str, Any]:
    """The member `linux.resources` of a spec."""
    memory: dict[str, Any] = {}
    if host.get("Memory"):
        memory["limit"] = host["Memory"]
    if host.get("MemorySwap"):
        memory["swap"] = host["MemorySwap"]
    if host.get("MemoryReservation"):
        memory["reservation"] = host["MemoryReservation"]
    cpu: dict[str, Any] = {}
    if host.get("CpuShares"):
        cpu["shares"] = host["CpuShares"]
    if host.get("NanoCpus"):
        cpu["quota"], cpu["period"] = host["NanoCpus"] // 10_000, 100_000
    if host.get("CpuQuota"):
        cpu["quota"] = host["CpuQuota"]
    if host.get("CpuPeriod"):
        cpu["period"] = host["CpuPeriod"]
    if host.get("CpusetCpus"):
        cpu["cpus"] = host["CpusetCpus"]
    if host.get("CpusetMems"):
        cpu["mems"] = host["CpusetMems"]
    resources: dict[str, Any] = {"memory": memory, "cpu": cpu}
    if host.get("PidsLimit"):
        resources["pids"] = {"limit": host["PidsLimit"]}
    return resources


def _process(
    config: dict[str, Any], host: dict[str, Any], args: list[str], env: list[str], hostname: str
) -> dict[str, Any]:
    """The member `process` of a spec. User, WorkingDir, Tty are config's."""
    if not any(entry.startswith("PATH=") for entry in env):
        env.insert(0, DEFAULT_PATH)
    if not any(entry.startswith("HOSTNAME=") for entry in env):
        env.insert(1, f"HOSTNAME={hostname}")
    if config.get("Tty") and not any(entry.startswith("TERM=") for entry in env):
        env.append("TERM=xterm")
    granted = capabilities(host)
    security = [option for option in host.get("SecurityOpt") or () if option.startswith("no-new-privileges")]
    limits = [
        {"type": f"RLIMIT_{entry['Name'].upper()}", "soft": entry["Soft"], "hard": entry["Hard"]}
        for entry in host.get("Ulimits") or ()
    ]
    return {
        "terminal": bool(config.get("Tty")),
        "user": {
            "uid": 0,
            "gid": 0,
            "username": config.get("User") or "",
            "additionalGids": [int(group) for group in host.get("GroupAdd") or () if group.isdigit()],
            "additionalGroups": [group for group in host.get("GroupAdd") or () if not group.isdigit()],
        },
        "args": args,
        "env": env,
        "cwd": config.get("WorkingDir") or "/",
        "capabilities": {"bounding": granted, "effective": granted, "permitted": granted},
        "rlimits": limits,
        "noNewPrivileges": any(not option.endswith(("=false", ":false")) for option in security),
        "oomScoreAdj": host.get("OomScoreAdj") or 0,
    }


def _seccomp(host: dict[str, Any]) -> dict[str, Any] | None:
    """The profile that SecurityOpt has; none by default, since the machine is the boundary."""
    for option in host.get("SecurityOpt") or ():
        name, value = option[:7], option[8:]
        if name == "seccomp" and value not in ("unconfined", "builtin") and not host.get("Privileged"):
            return parse_profile(value, host)
    return None


def build_exec_spec(config: dict[str, Any], host: dict[str, Any], wanted: dict[str, Any]) -> bytes:
    """config.json of an exec: the container's process with what `wanted` (ExecConfig of the API) says instead."""
    names = {entry.partition("=")[0] for entry in wanted.get("Env") or ()}
    env = [entry for entry in config.get("Env") or () if entry.partition("=")[0] not in names]
    env += [entry for entry in wanted.get("Env") or () if "=" in entry]
    merged = {
        "Tty": bool(wanted.get("Tty")),
        "User": wanted.get("User") or config.get("User"),
        "WorkingDir": wanted.get("WorkingDir") or config.get("WorkingDir"),
    }
    if not str(merged["WorkingDir"] or "/").startswith("/"):
        raise InvalidParameter(
            f"the working directory '{merged['WorkingDir']}' is invalid, it needs to be an absolute path"
        )
    granted = {**host, "Privileged": True} if wanted.get("Privileged") else host
    process = _process(merged, granted, list(wanted["Cmd"]), env, config.get("Hostname") or "")
    return json.dumps({"ociVersion": "1.0.2", "process": process}).encode()


def build_spec(config: dict[str, Any], host: dict[str, Any], hostname: str, own: list[dict[str, Any]]) -> bytes:
    """Return config.json; `own` are mounts of it beside those that every container has. InvalidParameter names what cannot be."""
    command = arguments(config)
    args = [command.path, *command.args]
    if host.get("Init"):
        args = ["/sbin/docker-init", "--", *args]
    spec: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": _process(config, host, args, list(config.get("Env") or ()), hostname),
        "root": {"path": ROOT, "readonly": bool(host.get("ReadonlyRootfs"))},
        "hostname": hostname,
        "domainname": config.get("Domainname") or "",
        "mounts": _mounts(host, own),
        "linux": {
            "namespaces": [{"type": kind} for kind in _namespaces(host)],
            "maskedPaths": masked_paths(host),
            "readonlyPaths": readonly_paths(host),
            "sysctl": host.get("Sysctls") or {},
            "resources": resources_of(host),
        },
    }
    if (profile := _seccomp(host)) is not None:
        spec["linux"]["seccomp"] = profile
    return json.dumps(spec).encode()
