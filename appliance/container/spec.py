"""A container's configuration as the OCI runtime spec that the tether launches. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.container.capabilities import capabilities
from appliance.container.mounts import clean
from appliance.container.seccomp import parse_profile
from appliance.errors import InvalidParameter
from tether.launch import oci

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


def _mounts(host: dict[str, Any], own: Sequence[oci.Mount]) -> tuple[oci.Mount, ...]:
    """The mounts that every container has, except those that `own` replaces, and `own`. A mount follows those that contain it."""
    access = () if host.get("Privileged") else ("ro",)
    secure = ("nosuid", "noexec", "nodev")
    shm = int(host.get("ShmSize") or 64 << 20)
    mounts = [
        oci.Mount("/proc", "proc", "proc", secure),
        oci.Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        oci.Mount(
            "/dev/pts",
            "devpts",
            "devpts",
            ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        oci.Mount("/sys", "sysfs", "sysfs", (*secure, *access)),
        oci.Mount("/sys/fs/cgroup", "cgroup", "cgroup", (*secure, *access)),
        oci.Mount("/dev/mqueue", "mqueue", "mqueue", secure),
    ]
    if host.get("IpcMode") != "none":
        mounts.append(oci.Mount("/dev/shm", "tmpfs", "shm", (*secure, "mode=1777", f"size={shm}")))
    for name in ("resolv.conf", "hostname", "hosts"):
        mounts.append(oci.Mount(f"/etc/{name}", "bind", f"{FILES}/{name}", ("rbind", "rprivate")))
    own = list(own)
    for target, options in (host.get("Tmpfs") or {}).items():
        own.append(tmpfs_mount(target, [option for option in options.split(",") if option]))
    for device in host.get("Devices") or ():
        # A device node of the guest, bound as it is there.
        node = device["PathOnHost"]
        mounts.append(oci.Mount(device.get("PathInContainer") or node, "bind", node, ("bind",)))
    if host.get("Init"):
        mounts.append(oci.Mount("/sbin/docker-init", "bind", "/usr/bin/tini-static", ("bind", "ro")))
    taken = {clean(mount.destination) for mount in own}
    mounts = [mount for mount in mounts if mount.destination not in taken]
    return tuple(sorted([*mounts, *own], key=lambda mount: len(clean(mount.destination).split("/"))))


def tmpfs_mount(target: str, options: Iterable[str]) -> oci.Mount:
    """A tmpfs with Docker's defaults."""
    return oci.Mount(target, "tmpfs", "tmpfs", ("nosuid", "noexec", "nodev", *options))


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


def resources_of(host: dict[str, Any]) -> oci.Resources:
    """The member `linux.resources` of a spec."""
    quota, period = host.get("CpuQuota") or None, host.get("CpuPeriod") or None
    if host.get("NanoCpus"):
        quota, period = quota or host["NanoCpus"] // 10_000, period or 100_000
    return oci.Resources(
        oci.Memory(
            limit=host.get("Memory") or None,
            swap=host.get("MemorySwap") or None,
            reservation=host.get("MemoryReservation") or None,
        ),
        oci.Cpu(
            shares=host.get("CpuShares") or None,
            quota=quota,
            period=period,
            cpus=host.get("CpusetCpus") or None,
            mems=host.get("CpusetMems") or None,
        ),
        oci.Pids(host["PidsLimit"]) if host.get("PidsLimit") else None,
    )


def _process(
    config: dict[str, Any], host: dict[str, Any], args: list[str], env: list[str], hostname: str
) -> oci.Process:
    """The member `process` of a spec. `config` decides User, WorkingDir and Tty."""
    if not any(entry.startswith("PATH=") for entry in env):
        env.insert(0, DEFAULT_PATH)
    if not any(entry.startswith("HOSTNAME=") for entry in env):
        env.insert(1, f"HOSTNAME={hostname}")
    if config.get("Tty") and not any(entry.startswith("TERM=") for entry in env):
        env.append("TERM=xterm")
    granted = tuple(capabilities(host))
    groups = host.get("GroupAdd") or ()
    security = [option for option in host.get("SecurityOpt") or () if option.startswith("no-new-privileges")]
    return oci.Process(
        terminal=bool(config.get("Tty")),
        user=oci.User(
            username=config.get("User") or "",
            additional_gids=tuple(int(group) for group in groups if group.isdigit()),
            additional_groups=tuple(group for group in groups if not group.isdigit()),
        ),
        args=tuple(args),
        env=tuple(env),
        cwd=config.get("WorkingDir") or "/",
        capabilities=oci.Capabilities(bounding=granted, effective=granted, permitted=granted),
        rlimits=tuple(
            oci.Rlimit(f"RLIMIT_{limit['Name'].upper()}", limit["Soft"], limit["Hard"])
            for limit in host.get("Ulimits") or ()
        ),
        no_new_privileges=any(not option.endswith(("=false", ":false")) for option in security),
        oom_score_adj=host.get("OomScoreAdj") or 0,
    )


def _seccomp(host: dict[str, Any]) -> oci.Seccomp | None:
    """The profile that SecurityOpt has; none by default, since the VM is the boundary."""
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
    return oci.encode(oci.Spec(oci.VERSION, process))


def build_spec(config: dict[str, Any], host: dict[str, Any], hostname: str, own: Sequence[oci.Mount]) -> bytes:
    """Return config.json. `own` are the container's mounts beside those that every container has.

    InvalidParameter when there is nothing to run.
    """
    command = arguments(config)
    args = [command.path, *command.args]
    if host.get("Init"):
        args = ["/sbin/docker-init", "--", *args]
    linux = oci.Linux(
        namespaces=tuple(oci.Namespace(kind) for kind in _namespaces(host)),
        masked_paths=tuple(masked_paths(host)),
        readonly_paths=tuple(readonly_paths(host)),
        sysctl=host.get("Sysctls") or {},
        resources=resources_of(host),
        seccomp=_seccomp(host),
    )
    return oci.encode(
        oci.Spec(
            oci.VERSION,
            _process(config, host, args, list(config.get("Env") or ()), hostname),
            oci.Root(ROOT, bool(host.get("ReadonlyRootfs"))),
            hostname,
            config.get("Domainname") or "",
            _mounts(host, own),
            linux,
        )
    )
