"""Start one process. The parent's half is trio's, the child's half is everything between fork and exec."""

import errno
import fcntl
import gc
import os
import signal
import socket
import stat
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass

import trio

from tether.launch.credentials import drop_to, look_up_user, set_limits
from tether.launch.failure import Kind, LaunchFailure, step
from tether.launch.namespaces import Namespaces
from tether.launch.rootfs import enter_root, hide_paths
from tether.launch.seccomp import install_filter, load_library
from tether.launch.spec import Spec, parse_spec_untrusted
from tether.system import linux
from tether.system.cgroup import open_cgroup_of

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = {
    "pid": linux.CLONE_NEWPID,
    "mount": linux.CLONE_NEWNS,
    "uts": linux.CLONE_NEWUTS,
    "ipc": linux.CLONE_NEWIPC,
    "network": linux.CLONE_NEWNET,
}
# The namespaces of a child that was forked ahead.
_FLAGS_AHEAD = linux.CLONE_NEWPID | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWNS
_ORDER = struct.Struct("HH")
_MOST_AHEAD = 64 << 10
_JOINED = (
    linux.CLONE_NEWPID
    | linux.CLONE_NEWNS
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWCGROUP
)
_NO_NAMESPACES = Namespaces()


@dataclass(frozen=True, slots=True)
class Stdio:
    """The child's ends of its stdio; unused when the process has a terminal."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1


@dataclass(frozen=True, slots=True)
class Launched:
    """`terminal` is the master of the new pty, -1 without one."""

    pid: int
    terminal: int


class Prepared:
    """A child that was forked ahead of its container, in its own namespaces and cgroup. `launch` sends it the spec.

    A fork copies the tether's page tables, and each page that the child then touches. That takes 15 to 40 ms without KVM, and
    a container that finds a prepared child does not wait for it.
    """

    def __init__(self, cgroup: int) -> None:
        """Fork the child. `cgroup` is a descriptor, as in `fork`."""
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        with theirs:
            self.pid = fork(_FLAGS_AHEAD, cgroup, lambda: _wait_for_order(theirs))

    @staticmethod
    def suits(spec: Spec, namespaces: Namespaces = _NO_NAMESPACES) -> bool:
        # The child was forked before libseccomp was loaded, so a spec with a filter needs a new fork.
        return (
            _flags(spec) == _FLAGS_AHEAD
            and not namespaces.flags
            and len(spec.raw) <= _MOST_AHEAD
            and not spec.linux.seccomp
        )


async def launch(
    spec: Spec,
    stdio: Stdio,
    cgroup: int,
    *,
    join: int = 0,
    rows: int = 0,
    columns: int = 0,
    prepared: Prepared | None = None,
    namespaces: Namespaces = _NO_NAMESPACES,
) -> Launched:
    """Start the process of a spec in the cgroup (a directory's descriptor); return when exec has succeeded.

    `join` is the pid of a running container's first process: the new one enters its namespaces (an exec). `prepared` has to
    suit the spec, is in the cgroup already, and is used up. `namespaces` are entered instead of new ones; the caller closes them.
    Raises LaunchFailure; the child is then gone, and the tether's reaper gets it like any other.
    """
    size = (rows, columns)
    if spec.linux.seccomp:
        load_library()
    if prepared is not None:
        pid, ours = prepared.pid, prepared.socket
        given = [fd for fd in (stdio.stdin, stdio.stdout, stdio.stderr) if fd >= 0]
        try:
            socket.send_fds(ours, [_ORDER.pack(*size) + spec.raw], given)
        except OSError as error:
            ours.close()
            raise LaunchFailure(Kind.OTHER, "order", "", error.errno or 0) from error
    else:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        with theirs:
            # A pid namespace is entered by children only, so there the child itself makes the new namespaces: _enter.
            flags = 0 if join or namespaces.pid >= 0 else _flags(spec) & ~namespaces.flags
            pid = _fork_into(cgroup, join, flags, lambda: _child(spec, stdio, theirs, join, size, namespaces))
    with ours:
        terminal = -1
        ours.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(ours)
            data, descriptors = _receive(ours, 65536, 1)
            if data.startswith(b"pid "):
                # A process that enters a pid namespace is a grandchild, which only its parent could number.
                pid = int(data[4:])
            elif data == b"tty":
                terminal = descriptors[0]
            elif data:
                if terminal >= 0:
                    os.close(terminal)
                raise LaunchFailure.decode(data)
            else:
                return Launched(pid, terminal)


def fork(flags: int, cgroup: int, child: Callable[[], None]) -> int:
    """Fork with the flags of clone3(2) into a cgroup (-1: the caller's) and run `child`, which never returns. Return the pid.

    Only a process without threads may fork like this.
    """
    # The child must not run Python's or trio's signal handlers, nor inherit a mask.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = linux.fork_with(flags, cgroup)
        if not pid:
            # A garbage collection would touch, and so copy, every page of the tether.
            gc.disable()
            _reset_signals()
            child()
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _fork_into(cgroup: int, join: int, flags: int, child: Callable[[], None]) -> int:
    """Fork into the container's cgroup; an exec into the cgroup of the container's first process where the former is not possible.

    A container may make cgroups of its own below, as systemd does: a cgroup that has controllers for those can hold no process.
    """
    try:
        return fork(flags, cgroup, child)
    except OSError as error:
        if not join or error.errno != errno.EBUSY:
            raise
    group = open_cgroup_of(join)
    try:
        return fork(flags, group, child)
    finally:
        os.close(group)


def _flags(spec: Spec) -> int:
    flags = 0
    for name in spec.namespaces - {"cgroup"}:
        flags |= _NAMESPACES[name]
    return flags


def _wait_for_order(report: socket.socket) -> None:
    """The prepared child: receive one message with terminal size, spec and stdio, and become that process. Never returns."""
    try:
        # Slave: later mounts of the tether below /run/tether appear here too, but no mount of this child appears there.
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
        data, descriptors = _receive(report, _ORDER.size + _MOST_AHEAD, 3)
        if data:
            size = _ORDER.unpack_from(data)
            spec = parse_spec_untrusted(data[_ORDER.size :])
            _child(spec, Stdio(*descriptors), report, 0, size)
    finally:
        os._exit(255)


def _receive(sender: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Return a message and its descriptors, which programs do not inherit: Python 3.11 ignores the flags of recv_fds."""
    data, descriptors, _, _ = socket.recv_fds(sender, size, most)
    for fd in descriptors:
        os.set_inheritable(fd, False)
    return data, descriptors


def _child(
    spec: Spec,
    stdio: Stdio,
    report: socket.socket,
    join: int,
    size: tuple[int, ...],
    namespaces: Namespaces = _NO_NAMESPACES,
) -> None:
    """Become the process of the spec, or report why not and exit. Never returns."""
    try:
        if join:
            _join(join, report)
        elif namespaces.flags:
            _enter(namespaces, _flags(spec) & ~namespaces.flags, report)
        _become(spec, stdio, report, bool(join), size)
    except LaunchFailure as failure:
        report.send(failure.encode())
    except BaseException as error:
        report.send(LaunchFailure(Kind.OTHER, f"{type(error).__name__}: {error}", "").encode())
    finally:
        os._exit(255)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _join(target: int, report: socket.socket) -> None:
    """Enter a container's namespaces and fork, since a pid namespace is entered by children only."""
    with step("join", str(target)):
        pidfd = os.pidfd_open(target)
        linux.setns(pidfd, _JOINED)
        os.close(pidfd)
        os.chdir("/")
    _fork_once_more(0, report)


def _enter(namespaces: Namespaces, flags: int, report: socket.socket) -> None:
    """Enter namespaces of other containers. For a pid namespace fork, with new namespaces of the kinds in `flags`."""
    with step("enter", "namespaces"):
        namespaces.enter()
    if namespaces.pid >= 0:
        with step("fork"):
            _fork_once_more(flags, report)


def _fork_once_more(flags: int, report: socket.socket) -> None:
    """Return in a new child only. Its parent reports its pid, as the tether sees it, and exits."""
    pid = linux.fork_with(flags)
    if pid:
        report.send(b"pid %d" % pid)
        os._exit(0)


def _become(spec: Spec, stdio: Stdio, report: socket.socket, joined: bool, size: tuple[int, ...]) -> None:
    os.setsid()
    if not joined:
        with step("cgroup namespace"):
            if "cgroup" in spec.namespaces:
                linux.unshare(linux.CLONE_NEWCGROUP)
        with step("host name", spec.hostname):
            if spec.hostname:
                socket.sethostname(spec.hostname)
            if spec.domainname:
                linux.set_domainname(spec.domainname)
        enter_root(spec)
        with step("chdir", spec.process.cwd, Kind.BAD_WORKING_DIRECTORY):
            # Docker makes a missing working directory, also where the root is read-only afterwards.
            os.makedirs(spec.process.cwd, exist_ok=True)
    if spec.process.terminal:
        _open_terminal(report, bind_console=not joined, size=size)
    else:
        for number, fd in enumerate((stdio.stdin, stdio.stdout, stdio.stderr)):
            os.dup2(fd, number)
        if not joined:
            _reopen_null()
    if not joined:
        for key, value in spec.linux.sysctl.items():
            with step("sysctl", key), open(f"/proc/sys/{key.replace('.', '/')}", "w") as file:
                file.write(value)
        hide_paths(spec)
    uid, gid, groups, home = look_up_user(spec.process.user)
    set_limits(spec.process)
    environment = dict(entry.partition("=")[::2] for entry in spec.process.env if "=" in entry)
    environment.setdefault("HOME", home)
    if not spec.process.terminal:
        # /dev/stdout and friends can be opened by the user that the process becomes. As in runc, the group stays.
        for fd in range(3):
            try:
                if not stat.S_ISCHR(os.fstat(fd).st_mode):
                    os.fchown(fd, uid, -1)
            except OSError:
                pass
    else:
        os.fchown(0, uid, -1)
    with step("chdir", spec.process.cwd, Kind.BAD_WORKING_DIRECTORY):
        try:
            os.chdir(spec.process.cwd)
        except PermissionError:
            os.chdir("/")  # tried again below, as the user
    if spec.process.no_new_privileges:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    elif spec.linux.seccomp:
        # Without no_new_privs a filter needs CAP_SYS_ADMIN, so install it before capabilities are dropped.
        install_filter(spec.linux.seccomp)
    drop_to(spec.process, uid, gid, groups)
    if spec.process.no_new_privileges and spec.linux.seccomp:
        install_filter(spec.linux.seccomp)
    with step("chdir", spec.process.cwd, Kind.BAD_WORKING_DIRECTORY):
        os.chdir(spec.process.cwd)
    os.umask(0o022 if spec.process.user.umask is None else spec.process.user.umask)
    _exec(spec, environment)


def _reopen_null() -> None:
    """Replace the guest's /dev/null by the container's, where stdio is that device."""
    for number in range(3):
        found = os.fstat(number)
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3):
            try:
                own = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                return  # The container has a /dev without it.
            os.dup2(own, number)
            os.close(own)


def _open_terminal(report: socket.socket, *, bind_console: bool, size: tuple[int, ...]) -> None:
    with step("open a terminal", "/dev/ptmx"):
        master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(master, 0x40045431, b"\0\0\0\0")  # TIOCSPTLCK: unlock
        slave = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)  # TIOCGPTPEER: no path involved
        if size != (0, 0):
            linux.set_terminal_size(master, *size)
    if bind_console:
        with step("bind", "/dev/console"):
            try:
                os.close(os.open("/dev/console", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            except FileExistsError:
                pass
            linux.mount(f"/proc/self/fd/{slave}", "/dev/console", None, linux.MS_BIND)
    socket.send_fds(report, [b"tty"], [master])
    os.close(master)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(slave, number)
    os.close(slave)


def _exec(spec: Spec, environment: dict[str, str]) -> None:
    program = spec.process.args[0]
    # Descriptors 0 to 2 stay open. All others of the tether are close-on-exec, as Python opens them.
    if "/" in program:
        try:
            os.execve(program, spec.process.args, environment)
        except OSError as error:
            raise _exec_failure(program, error.errno or 0, searched=False) from error
    refused = 0
    for directory in environment.get("PATH", _DEFAULT_PATH).split(":"):
        try:
            os.execve(os.path.join(directory or ".", program), spec.process.args, environment)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                refused = error.errno or 0
    raise _exec_failure(program, refused or errno.ENOENT, searched=True)


def _exec_failure(program: str, code: int, *, searched: bool) -> LaunchFailure:
    missing = code in (errno.ENOENT, errno.ENOTDIR)
    return LaunchFailure(Kind.NOT_FOUND if missing else Kind.PERMISSION, "exec", program, code, searched)
