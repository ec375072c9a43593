"""A QEMU process: launched with everything as descriptors, under a user of its own, known again by who it is."""

import contextlib
import hashlib
import os
import select
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import MachineSpec, Usage
from appliance.hypervisor.qemu.command import Descriptors, Origin, Placed, command, nics_of
from appliance.hypervisor.qemu.taps import open_tap

PROGRAM = "qemu-system-x86_64"
# Each machine's QEMU runs under a user id of this range that nobody else has: one that is broken into cannot reach another.
_FIRST_UID = 0x70000000


def boot_id() -> str:
    """This boot of the host: pids of another mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat: with the pid it names one process of this boot."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def is_running(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def title(machine_id: str) -> str:
    """What the process calls itself on its command line."""
    return f"vch-{machine_id[:12]}"


def running_titles() -> dict[str, list[int]]:
    """Which processes of this host call themselves by a machine's name: {title: pids}."""
    titles: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(PROGRAM.encode()) and b"-name" in words:
                    name = words[words.index(b"-name") + 1].decode("utf-8", "replace")
                    titles.setdefault(name, []).append(int(entry.name))
    return titles


@contextlib.contextmanager
def short(folder: Path) -> Iterator[str]:
    """Another name for a folder: a unix socket's path has 107 bytes, and data roots are as deep as users like."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _identity(machine_id: str) -> dict[str, int]:
    """QEMU's own user and group; {} when this process may not change users."""
    if os.geteuid():
        return {}
    uid = _FIRST_UID + int(hashlib.sha256(machine_id.encode()).hexdigest()[:6], 16)
    return {"user": uid, "group": uid}


def start_qemu(
    accel: str,
    guest: tuple[Path, Path],
    spec: MachineSpec,
    files: list[Path],
    luns: list[int],
    origin: Origin,
    folder: Path,
    shares: int = -1,
) -> tuple[subprocess.Popen[bytes], dict[int, str]]:
    """Start QEMU for a machine in its folder: its process, its taps' names by their NICs' places.

    `guest` is kernel and initrd; `files` are behind the spec's disks, at `luns`; `shares` is a connection to virtiofsd.
    """
    with contextlib.ExitStack() as stack:

        def opened(path: Path, flags: int) -> int:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o640)
            stack.callback(os.close, fd)
            return fd

        sockets = []
        for name in ("qmp", "tether"):
            (folder / f"{name}.sock").unlink(missing_ok=True)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
            with short(folder) as place:
                listener.bind(f"{place}/{name}.sock")
            listener.listen(1)
            sockets.append(listener.fileno())
        disks = tuple(
            Placed(lun, opened(file, os.O_RDONLY if disk.read_only else os.O_RDWR), disk.read_only)
            for lun, file, disk in zip(luns, files, spec.disks, strict=True)
        )
        # Opened here: QEMU may not create files where it runs.
        console = opened(folder / "console.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        messages = opened(folder / "qemu.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        # QEMU's user may not walk to the guest's files; a descriptor that it inherits it may open again.
        images = [opened(path, os.O_RDONLY) for path in guest]
        taps: dict[int, int] = {}
        names: dict[int, str] = {}
        for number, nic in nics_of(spec):
            if nic.bridge:
                taps[number], names[number] = open_tap(nic.bridge, isolated=nic.isolated)
                stack.callback(os.close, taps[number])
        identity = _identity(spec.id)
        if identity:
            os.fchown(console, identity["user"], identity["group"])
        kernel, initrd, out = (Path(f"/proc/self/fd/{fd}") for fd in (*images, console))
        argv = command(
            PROGRAM, accel, kernel, initrd, spec, origin, Descriptors(sockets[0], sockets[1], disks, taps, shares), out
        )
        passed = [*sockets, *(disk.fd for disk in disks), *images, console, *taps.values()]
        if shares >= 0:
            passed.append(shares)
        if origin.memory >= 0:
            passed.append(origin.memory)
        groups = [os.stat("/dev/kvm").st_gid] if accel == "kvm" else []
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                start_new_session=True,
                pass_fds=passed,
                cwd="/",
                user=identity.get("user"),
                group=identity.get("group"),
                extra_groups=groups if identity else None,
            )
        except OSError as error:
            raise HypervisorError(f"{shlex.join(argv)}: {error}") from error
    (folder / "command").write_text(shlex.join(argv) + "\n")
    return process, names


def usage_of(pid: int) -> Usage:
    """Of a process, by proc(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return Usage(0, 0)
    ticks = int(fields[11]) + int(fields[12])
    return Usage(ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))
