"""A QEMU process: started with all files as descriptors, under a user of its own, and identified again after a restart."""

import contextlib
import hashlib
import os
import select
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import trio

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import MachineSpec, Usage
from appliance.hypervisor.qemu.command import Descriptors, Origin, Placed, command, nics_of
from appliance.hypervisor.qemu.taps import open_tap
from appliance.hypervisor.qemu.vfio import locked_memory
from tether.transport import Line

PROGRAM = "qemu-system-x86_64"
# Each machine's QEMU runs under its own user id in this range. A QEMU that a guest has broken into cannot reach another machine.
_FIRST_UID = 0x70000000


def boot_id() -> str:
    """Identifies this boot of the host. A pid of another boot means nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat: together with the pid it identifies one process of this boot."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def is_running(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def title(machine_id: str) -> str:
    """The value of QEMU's -name option for a machine."""
    return f"vch-{machine_id[:12]}"


def running_titles() -> dict[str, list[int]]:
    """The QEMU processes of this host by the value of their -name option."""
    titles: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(PROGRAM.encode()) and b"-name" in words:
                    name = words[words.index(b"-name") + 1].decode("utf-8", "replace")
                    titles.setdefault(name, []).append(int(entry.name))
    return titles


def uses(pid: int, folder: Path) -> bool:
    """Whether a process has a file in a folder open; False for a process of which this one may not see that."""
    place = f"{folder.resolve()}/"
    try:
        return any(os.readlink(entry).startswith(place) for entry in os.scandir(f"/proc/{pid}/fd"))
    except OSError:
        return False


@contextlib.contextmanager
def short(folder: Path) -> Iterator[str]:
    """A short path of a folder: the path of a unix socket has at most 107 bytes, and data roots may be deep."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def identity(machine_id: str) -> dict[str, int]:
    """The user and group for a machine's QEMU; {} when this process may not change users."""
    if os.geteuid():
        return {}
    uid = _FIRST_UID + int(hashlib.sha256(machine_id.encode()).hexdigest()[:6], 16)
    return {"user": uid, "group": uid}


def start_qemu(
    accel: str,
    guest: tuple[Path, Path, Path],
    spec: MachineSpec,
    files: list[Path],
    luns: list[int],
    origin: Origin,
    folder: Path,
    shares: int = -1,
) -> tuple[subprocess.Popen[bytes], dict[int, str]]:
    """Start QEMU for a machine; return the process, and the names of the taps by the index of their NIC.

    `guest` is kernel, initrd and modules disk; `files` are the files of the spec's disks, at `luns`; `shares` is the descriptor of a
    connection to virtiofsd, or -1. `folder` gets sockets and logs.
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
        # Opened here, because QEMU's user may not create files in the folder.
        console = opened(folder / "console.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        messages = opened(folder / "qemu.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        # QEMU's user may have no access to the folders of the guest's files. It can open an inherited descriptor again.
        images = [opened(path, os.O_RDONLY) for path in guest]
        taps: dict[int, int] = {}
        names: dict[int, str] = {}
        for number, nic in nics_of(spec):
            if nic.bridge:
                taps[number], names[number] = open_tap(nic.bridge, isolated=nic.isolated)
                stack.callback(os.close, taps[number])
        user = identity(spec.id)
        if user:
            os.fchown(console, user["user"], user["group"])
        kernel, initrd, out = (Path(f"/proc/self/fd/{fd}") for fd in (*images[:2], console))
        descriptors = Descriptors(sockets[0], sockets[1], disks, taps, shares, images[2])
        argv = command(PROGRAM, accel, kernel, initrd, spec, origin, descriptors, out)
        passed = [*sockets, *(disk.fd for disk in disks), *images, console, *taps.values()]
        if shares >= 0:
            passed.append(shares)
        if origin.memory >= 0:
            passed.append(origin.memory)
        groups = [os.stat("/dev/kvm").st_gid] if accel == "kvm" else []
        try:
            with locked_memory(spec):
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=messages,
                    stderr=messages,
                    start_new_session=True,
                    pass_fds=passed,
                    cwd="/",
                    user=user.get("user"),
                    group=user.get("group"),
                    extra_groups=groups if user else None,
                )
        except OSError as error:
            raise HypervisorError(f"{shlex.join(argv)}: {error}") from error
    (folder / "command").write_text(shlex.join(argv) + "\n")
    return process, names


def usage_of(pid: int) -> Usage:
    """The usage of a process, from proc(5); zeros when the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return Usage(0, 0)
    ticks = int(fields[11]) + int(fields[12])
    return Usage(ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))


async def connect_tether(folder: Path) -> Line:
    """Connect to the guest's channel. OSError when QEMU does not listen."""
    connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short(folder) as place:
            await connection.connect(f"{place}/tether.sock")
    except BaseException:
        connection.close()
        raise
    return Line(connection.detach())
