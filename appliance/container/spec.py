"""A container's configuration as the OCI runtime spec that the tether launches. Pure."""

import json
from dataclasses import dataclass
from typing import Any

from appliance.errors import InvalidParameter

ROOT = "/run/tether/rootfs"
FILES = "/run/tether/files"

# moby oci/caps: what a container may by default.
_DEFAULT_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip
_ALL_CAPABILITIES = (
    *_DEFAULT_CAPABILITIES, "DAC_READ_SEARCH", "LINUX_IMMUTABLE", "NET_BROADCAST", "NET_ADMIN", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
    "SYS_TTY_CONFIG", "LEASE", "AUDIT_CONTROL", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND",
    "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
_MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip
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


def capabilities(host: dict[str, Any]) -> list[str]:
    """The capability names of CapAdd, CapDrop, Privileged, as moby's oci/caps counts them."""

    def clean(names: list[str] | None) -> list[str]:
        cleaned = [name.upper().removeprefix("CAP_") for name in names or ()]
        for name in cleaned:
            if name != "ALL" and name not in _ALL_CAPABILITIES:
                raise InvalidParameter(f'invalid capability: "CAP_{name}"')
        return cleaned

    add, drop = clean(host.get("CapAdd")), clean(host.get("CapDrop"))
    if host.get("Privileged") or ("ALL" in add and "ALL" not in drop) or "ALL" in add:
        base = [*_ALL_CAPABILITIES]
    elif "ALL" in drop:
        base = [name for name in add if name != "ALL"]
        drop = []
    else:
        base = [*_DEFAULT_CAPABILITIES, *(name for name in add if name not in _DEFAULT_CAPABILITIES)]
    return [f"CAP_{name}" for name in base if host.get("Privileged") or name not in drop]


def _mounts(host: dict[str, Any]) -> list[dict[str, Any]]:
    privileged = bool(host.get("Privileged"))
    mode = ["nosuid", "noexec", "nodev"]
    shm = int(host.get("ShmSize") or 64 << 20)
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": mode},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*mode, *(() if privileged else ("ro",))]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": [*mode, *(() if privileged else ("ro",))]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": mode},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*mode, "mode=1777", f"size={shm}"]},
    ]  # fmt: skip
    for name in ("resolv.conf", "hostname", "hosts"):
        mounts.append({"destination": f"/etc/{name}", "type": "bind", "source": f"{FILES}/{name}",
                       "options": ["rbind", "rprivate"]})  # fmt: skip
    for target, options in (host.get("Tmpfs") or {}).items():
        given = [option for option in options.split(",") if option]
        mounts.append({"destination": target, "type": "tmpfs", "source": "tmpfs",
                       "options": [*mode, *given]})  # fmt: skip
    if host.get("Init"):
        mounts.append({"destination": "/sbin/docker-init", "type": "bind", "source": "/usr/bin/tini-static",
                       "options": ["bind", "ro"]})  # fmt: skip
    return mounts


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
        "user": {"uid": 0, "gid": 0, "username": config.get("User") or "",
                 "additionalGids": [int(group) for group in host.get("GroupAdd") or () if group.isdigit()]},
        "args": args,
        "env": env,
        "cwd": config.get("WorkingDir") or "/",
        "capabilities": {"bounding": granted, "effective": granted, "permitted": granted},
        "rlimits": limits,
        "noNewPrivileges": any(not option.endswith(("=false", ":false")) for option in security),
        "oomScoreAdj": host.get("OomScoreAdj") or 0,
    }  # fmt: skip


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


def build_spec(config: dict[str, Any], host: dict[str, Any], hostname: str) -> bytes:
    """Return config.json. InvalidParameter names what cannot be."""
    command = arguments(config)
    args = [command.path, *command.args]
    if host.get("Init"):
        args = ["/sbin/docker-init", "--", *args]
    privileged = bool(host.get("Privileged"))
    spec: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": _process(config, host, args, list(config.get("Env") or ()), hostname),
        "root": {"path": ROOT, "readonly": bool(host.get("ReadonlyRootfs"))},
        "hostname": hostname,
        "domainname": config.get("Domainname") or "",
        "mounts": _mounts(host),
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "uts", "ipc", "cgroup")],
            "maskedPaths": [] if privileged else list(_MASKED),
            "readonlyPaths": [] if privileged else list(_READ_ONLY),
            "sysctl": host.get("Sysctls") or {},
            "resources": resources_of(host),
        },
    }  # fmt: skip
    return json.dumps(spec).encode()
