"""A container's configuration as the OCI runtime spec that the tether launches. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from appliance.container.capabilities import capabilities
from appliance.container.config import ContainerConfig
from appliance.container.devices import is_pci_device
from appliance.container.exec_config import ExecConfig
from appliance.container.guest_paths import GuestPaths
from appliance.container.host_config import HostConfig
from appliance.container.mounts import clean
from appliance.container.seccomp import parse_profile
from appliance.container.sharing import shares_network
from appliance.errors import InvalidParameter
from tether.launch import oci

SHM_BYTES = 64 << 20

_MASKED = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
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
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Docker lets every user listen on ports below 1024 and ping (moby, daemon/oci_linux.go). The guest's kernel has both sysctls.
_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}

_FIRST = GuestPaths()


@dataclass(frozen=True, slots=True)
class ProcessArguments:
    """Entrypoint and command, joined, and split as `docker inspect` shows them."""

    path: str
    args: tuple[str, ...]


def arguments(config: ContainerConfig) -> ProcessArguments:
    """InvalidParameter when there is nothing to run."""
    joined = [*(config.entrypoint or ()), *(config.cmd or ())]
    if not joined or (len(joined) == 1 and not joined[0]):
        raise InvalidParameter("no command specified")
    return ProcessArguments(joined[0], tuple(joined[1:]))


def _mounts(host_config: HostConfig, own: Sequence[oci.Mount], paths: GuestPaths) -> tuple[oci.Mount, ...]:
    """The mounts that every container has, except those that `own` replaces, and `own`. A mount follows those that contain it."""
    access = () if host_config.privileged else ("ro",)
    secure = ("nosuid", "noexec", "nodev")
    shm = host_config.shm_size or SHM_BYTES
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
    if paths.shm:
        mounts.append(oci.Mount("/dev/shm", "bind", paths.shm, ("rbind", "rprivate")))
    elif host_config.ipc_mode != "none":
        mounts.append(oci.Mount("/dev/shm", "tmpfs", "shm", (*secure, "mode=1777", f"size={shm}")))
    # As in moby, these files are as read-only as the root that they lie in (container_unix.go, NetworkMounts).
    read_only = ("ro",) if host_config.readonly_rootfs else ()
    for name in ("resolv.conf", "hostname", "hosts"):
        mounts.append(oci.Mount(f"/etc/{name}", "bind", f"{paths.files}/{name}", ("rbind", "rprivate", *read_only)))
    own = list(own)
    for target, options in (host_config.tmpfs or {}).items():
        own.append(tmpfs_mount(target, [option for option in options.split(",") if option]))
    for device in host_config.devices or ():
        if is_pci_device(device):
            continue
        # A device node of the guest, bound as it is there.
        node = device.path_on_host or ""
        mounts.append(oci.Mount(device.path_in_container or node, "bind", node, ("bind",)))
    if host_config.init:
        mounts.append(oci.Mount("/sbin/docker-init", "bind", "/usr/bin/tini-static", ("bind", "ro")))
    taken = {clean(mount.destination) for mount in own}
    mounts = [mount for mount in mounts if mount.destination not in taken]
    return tuple(sorted([*mounts, *own], key=lambda mount: len(clean(mount.destination).split("/"))))


def tmpfs_mount(target: str, options: Iterable[str]) -> oci.Mount:
    """A tmpfs with Docker's defaults."""
    return oci.Mount(target, "tmpfs", "tmpfs", ("nosuid", "noexec", "nodev", *options))


def _namespaces(host_config: HostConfig) -> list[str]:
    """The namespaces that the container does not share with the guest: mode "host" means the guest's."""
    modes = {
        "pid": host_config.pid_mode,
        "uts": host_config.uts_mode,
        "ipc": host_config.ipc_mode,
        "cgroup": host_config.cgroupns_mode,
    }
    return ["mount", *(name for name, mode in modes.items() if mode != "host")]


def _paths(host_config: HostConfig, given: list[str] | None, default: tuple[str, ...]) -> list[str]:
    if host_config.privileged or "systempaths=unconfined" in (host_config.security_opt or ()):
        return []
    return list(default if given is None else given)


def masked_paths(host_config: HostConfig) -> list[str]:
    """The paths of the kernel's file systems that the container does not see."""
    return _paths(host_config, host_config.masked_paths, _MASKED)


def readonly_paths(host_config: HostConfig) -> list[str]:
    return _paths(host_config, host_config.readonly_paths, _READ_ONLY)


def _sysctls(host_config: HostConfig) -> dict[str, str]:
    """Docker's sysctls of a network namespace that is the container's own, and those of the container, which win."""
    own = host_config.sysctls or {}
    return own if host_config.network_mode == "host" or shares_network(host_config) else {**_SYSCTLS, **own}


def resources_of(host_config: HostConfig) -> oci.Resources:
    """The member `linux.resources` of a spec."""
    quota, period = host_config.cpu_quota or None, host_config.cpu_period or None
    if host_config.nano_cpus:
        quota, period = quota or host_config.nano_cpus // 10_000, period or 100_000
    return oci.Resources(
        oci.Memory(
            limit=host_config.memory or None,
            swap=host_config.memory_swap or None,
            reservation=host_config.memory_reservation or None,
        ),
        oci.Cpu(
            shares=host_config.cpu_shares or None,
            quota=quota,
            period=period,
            cpus=host_config.cpuset_cpus or None,
            mems=host_config.cpuset_mems or None,
        ),
        oci.Pids(host_config.pids_limit) if host_config.pids_limit else None,
    )


def _environment(given: Iterable[str], hostname: str, *, tty: bool) -> tuple[str, ...]:
    """Docker's variables, replaced and followed by those of `given` (moby, container.go, CreateDaemonEnvironment).

    The last entry of a name wins. An entry without `=` removes the variable.
    """
    found = {"PATH": _DEFAULT_PATH, "HOSTNAME": hostname}
    if tty:
        found["TERM"] = "xterm"
    for entry in given:
        name, equals, value = entry.partition("=")
        if equals:
            found[name] = value
        else:
            found.pop(name, None)
    return tuple(f"{name}={value}" for name, value in found.items())


def _process(
    config: ContainerConfig, host_config: HostConfig, args: list[str], env: Iterable[str], hostname: str
) -> oci.Process:
    """The member `process` of a spec. `config` decides User, WorkingDir and Tty."""
    granted = tuple(capabilities(host_config))
    groups = host_config.group_add or ()
    security = [option for option in host_config.security_opt or () if option.startswith("no-new-privileges")]
    return oci.Process(
        terminal=config.tty,
        user=oci.User(
            # By number, since root need not be called root. The guest looks up root's groups too.
            username=config.user or "0",
            additional_gids=tuple(int(group) for group in groups if group.isdigit()),
            additional_groups=tuple(group for group in groups if not group.isdigit()),
        ),
        args=tuple(args),
        env=_environment(env, hostname, tty=config.tty),
        cwd=config.working_dir or "/",
        capabilities=oci.Capabilities(bounding=granted, effective=granted, permitted=granted),
        rlimits=tuple(
            oci.Rlimit(f"RLIMIT_{limit.name.upper()}", limit.soft, limit.hard) for limit in host_config.ulimits or ()
        ),
        no_new_privileges=any(not option.endswith(("=false", ":false")) for option in security),
        oom_score_adj=host_config.oom_score_adj,
    )


def _seccomp(host_config: HostConfig) -> oci.Seccomp | None:
    """The profile that SecurityOpt has; none by default, since the VM is the boundary."""
    for option in host_config.security_opt or ():
        name, value = option[:7], option[8:]
        if name == "seccomp" and value not in ("unconfined", "builtin") and not host_config.privileged:
            return parse_profile(value, host_config)
    return None


def build_exec_spec(config: ContainerConfig, host_config: HostConfig, wanted: ExecConfig) -> bytes:
    """config.json of an exec: the container's process with the settings that `wanted` replaces."""
    env = [*(config.env or ()), *(wanted.env or ())]
    working_dir = wanted.working_dir or config.working_dir
    if not (working_dir or "/").startswith("/"):
        raise InvalidParameter(f"the working directory '{working_dir}' is invalid, it needs to be an absolute path")
    merged = ContainerConfig(tty=wanted.tty, user=wanted.user or config.user, working_dir=working_dir)
    granted = msgspec.structs.replace(host_config, privileged=True) if wanted.privileged else host_config
    process = _process(merged, granted, list(wanted.cmd or ()), env, config.hostname)
    return oci.encode(oci.Spec(oci.VERSION, process))


def build_spec(
    config: ContainerConfig,
    host_config: HostConfig,
    hostname: str,
    own: Sequence[oci.Mount],
    paths: GuestPaths = _FIRST,
) -> bytes:
    """Return config.json. `own` are the container's mounts beside those that every container has.

    InvalidParameter when there is nothing to run.
    """
    command = arguments(config)
    args = [command.path, *command.args]
    if host_config.init:
        args = ["/sbin/docker-init", "--", *args]
    linux = oci.Linux(
        namespaces=tuple(oci.Namespace(kind) for kind in _namespaces(host_config)),
        masked_paths=tuple(masked_paths(host_config)),
        readonly_paths=tuple(readonly_paths(host_config)),
        sysctl=_sysctls(host_config),
        resources=resources_of(host_config),
        seccomp=_seccomp(host_config),
        guest_devices=host_config.privileged or None,
    )
    return oci.encode(
        oci.Spec(
            oci.VERSION,
            _process(config, host_config, args, config.env or (), hostname),
            oci.Root(paths.root, host_config.readonly_rootfs),
            hostname,
            config.domainname,
            _mounts(host_config, own, paths),
            linux,
        )
    )
