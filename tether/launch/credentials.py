"""Users, groups, capabilities and limits. Runs in the child, inside the container's root."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from tether.launch.failure import Kind, LaunchFailure, step
from tether.launch.oci import Process, User
from tether.system import linux

# include/uapi/linux/capability.h, by number.
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
_NUMBERS = {f"CAP_{name}": number for number, name in enumerate(CAPABILITIES)}


def _mask(names: tuple[str, ...]) -> int:
    mask = 0
    for name in names:
        if name not in _NUMBERS:
            raise LaunchFailure(Kind.SETUP, "capability", name)
        mask |= 1 << _NUMBERS[name]
    return mask


def _entries(path: str, fields: int) -> Iterator[list[str]]:
    """Yield the entries of /etc/passwd or /etc/group; malformed lines are skipped, as libc does."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                parts = line.rstrip("\n").split(":")
                if len(parts) >= fields and parts[2].isdigit():
                    yield parts
    except OSError:
        return


def look_up_user(user: User) -> tuple[int, int, list[int], str]:
    """Return (uid, gid, supplementary groups, home) as Docker does for `User` (name|uid[:group|gid]).

    Without a username, OCI's numbers stand as they are. With one, the groups are those of moby's getUser (daemon/oci_linux.go):
    the primary group, then those of /etc/group that list the user by name unless `User` names a group, then the added ones.
    """
    name, _, group = user.username.partition(":")
    name = name or str(user.uid)
    entry = None
    for parts in _entries("/etc/passwd", 7):
        if parts[0] == name or (name.isdigit() and parts[2] == name):
            entry = parts
            break
    if entry is None and not name.isdigit() and name:
        raise LaunchFailure(Kind.NO_SUCH_USER, "user", name)
    uid = int(entry[2]) if entry else int(name)
    gid = (int(entry[3]) if entry and entry[3].isdigit() else 0) if user.username else user.gid
    groups: list[int] = []
    if group:
        found = [parts for parts in _entries("/etc/group", 3) if parts[0] == group or parts[2] == group]
        if found:
            gid = int(found[0][2])
        elif group.isdigit():
            gid = int(group)
        else:
            raise LaunchFailure(Kind.NO_SUCH_GROUP, "group", group)
    elif user.username and entry:
        for parts in _entries("/etc/group", 4):
            if entry[0] in parts[3].split(","):
                groups.append(int(parts[2]))
    if user.username:
        groups.insert(0, gid)
    groups += user.additional_gids
    for wanted in user.additional_groups:
        found = [parts for parts in _entries("/etc/group", 3) if parts[0] == wanted]
        if not found:
            raise LaunchFailure(Kind.NO_SUCH_GROUP, "group", wanted)
        groups.append(int(found[0][2]))
    if max(uid, gid) >= 1 << 31:
        raise LaunchFailure(Kind.NO_SUCH_USER, "user", user.username)
    return uid, gid, groups, entry[5] if entry else "/"


def set_limits(process: Process) -> None:
    """Set resource limits and the OOM score, before the process becomes a user who may not raise them."""
    for name, soft, hard in process.rlimits:
        number = getattr(resource, name, None)
        if number is None:
            raise LaunchFailure(Kind.SETUP, "rlimit", name)
        with step("rlimit", name):
            limit = [resource.RLIM_INFINITY if value >= (1 << 63) or value < 0 else value for value in (soft, hard)]
            try:
                resource.setrlimit(number, (limit[0], limit[1]))
            except ValueError as error:
                raise LaunchFailure(Kind.SETUP, "rlimit", f"{name}: {error}") from error
    if process.oom_score_adj is not None:
        with step("oom_score_adj", str(process.oom_score_adj)), open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(process.oom_score_adj))


def drop_to(process: Process, uid: int, gid: int, groups: list[int]) -> None:
    """Become the user with the spec's capabilities, as runc does: keep across setuid, then set all five sets."""
    sets = {name: _mask(names or ()) for name, names in process.capabilities._asdict().items()}
    with step("set capabilities"):
        # Without /proc the child cannot ask for the last capability of this kernel.
        known = Path("/proc/sys/kernel/cap_last_cap")
        last = int(known.read_text()) if known.exists() else len(CAPABILITIES) - 1
        for number in range(last + 1):
            if not sets["bounding"] >> number & 1:
                linux.prctl(linux.PR_CAPBSET_DROP, number)
        linux.prctl(linux.PR_SET_KEEPCAPS, 1)
    with step("set groups and user", f"{uid}:{gid}"):
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    with step("set capabilities"):
        linux.prctl(linux.PR_SET_KEEPCAPS, 0)
        linux.set_capabilities(sets["effective"], sets["permitted"], sets["inheritable"])
        linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_CLEAR_ALL)
        for number in range(last + 1):
            if sets["ambient"] >> number & 1:
                linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_RAISE, number)
