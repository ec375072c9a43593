"""The capabilities of a container. Pure."""

from appliance.container.host_config import HostConfig
from appliance.errors import InvalidParameter

# The default capabilities of moby's oci/caps.
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


def capabilities(host_config: HostConfig) -> list[str]:
    """The capabilities that CapAdd, CapDrop and Privileged leave, as moby's oci/caps computes them; OCI's names."""

    def clean(names: list[str] | None) -> list[str]:
        cleaned = [name.upper().removeprefix("CAP_") for name in names or ()]
        for name in cleaned:
            if name != "ALL" and name not in _ALL_CAPABILITIES:
                raise InvalidParameter(f'invalid capability: "CAP_{name}"')
        return cleaned

    add, drop = clean(host_config.cap_add), clean(host_config.cap_drop)
    if host_config.privileged or ("ALL" in add and "ALL" not in drop) or "ALL" in add:
        base = [*_ALL_CAPABILITIES]
    elif "ALL" in drop:
        base = [name for name in add if name != "ALL"]
        drop = []
    else:
        base = [*_DEFAULT_CAPABILITIES, *(name for name in add if name not in _DEFAULT_CAPABILITIES)]
    return [f"CAP_{name}" for name in base if host_config.privileged or name not in drop]
