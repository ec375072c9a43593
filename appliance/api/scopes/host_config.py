"""The options that a client with a scope may not use: those that reach beyond the VMs of its containers, or raise their rights."""

from collections.abc import Callable, Mapping

from appliance.container.host_config import HostConfig
from appliance.container.mounts import MountRecord, parse_bind, parse_mount
from appliance.errors import Forbidden

_PLAIN_SECURITY = ("no-new-privileges", "seccomp=builtin", "seccomp:builtin", "label=disable", "label:disable")
# Drivers that write where the client says may reach hosts that the client does not.
_LOG_DRIVERS = ("", "json-file", "local", "none")


def check_host_config(host_config: HostConfig, is_api_mount: Callable[[MountRecord], bool]) -> None:
    """Forbidden names the first option that a client with a scope may not use.

    Such a client may mount the API: the new container's connections have its scope.
    """
    for option, used in _forbidden(host_config).items():
        if used:
            raise _refused(f"the option {option}")
    for mode, option in (
        (host_config.network_mode, "NetworkMode"),
        (host_config.pid_mode, "PidMode"),
        (host_config.ipc_mode, "IpcMode"),
        (host_config.uts_mode, "UTSMode"),
        (host_config.userns_mode, "UsernsMode"),
        (host_config.cgroupns_mode, "CgroupnsMode"),
    ):
        if mode == "host":
            raise _refused(f"{option} host")
    for text in host_config.security_opt or ():
        if text not in _PLAIN_SECURITY and not text.startswith(("no-new-privileges=", "no-new-privileges:")):
            raise _refused(f"the option SecurityOpt {text.partition('=')[0]}")
    if host_config.log_config.type not in _LOG_DRIVERS:
        raise _refused(f"the log driver {host_config.log_config.type}")
    for mount in (*map(parse_bind, host_config.binds or ()), *map(parse_mount, host_config.mounts or ())):
        if mount.type not in ("volume", "tmpfs") and not is_api_mount(mount):
            raise Forbidden(
                f"authorization denied: a scoped client may not mount paths of the host: bind mount of {mount.source}"
            )
        if mount.type == "volume":
            check_volume_options(mount.options)


def _forbidden(host_config: HostConfig) -> dict[str, bool]:
    """Options, and whether they are used."""
    return {
        "Privileged": host_config.privileged,
        "CapAdd": bool(host_config.cap_add),
        "Devices": bool(host_config.devices),
        "DeviceRequests": bool(host_config.device_requests),
        "DeviceCgroupRules": bool(host_config.device_cgroup_rules),
        "CgroupParent": bool(host_config.cgroup_parent),
        "OomScoreAdj": host_config.oom_score_adj < 0,
        "OomKillDisable": bool(host_config.oom_kill_disable),
        # These lists replace Docker's own: a shorter list shows more of /proc and /sys.
        "MaskedPaths": host_config.masked_paths is not None,
        "ReadonlyPaths": host_config.readonly_paths is not None,
    }


def check_volume_options(options: Mapping[str, str]) -> None:
    """Forbidden for a volume that is a path of the host or of a server: `device` of every type but tmpfs."""
    if options.get("device") and options.get("type") != "tmpfs":
        raise _refused("the volume option device")


def _refused(what: str) -> Forbidden:
    return Forbidden(f"authorization denied: a scoped client may not use {what}")
