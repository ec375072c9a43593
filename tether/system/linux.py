"""System calls that Python 3.11 does not offer, by ctypes. All raise OSError. Numbers are x86-64's."""

import ctypes
import fcntl
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_SYNCHRONOUS, MS_REMOUNT, MS_MANDLOCK, MS_DIRSYNC = 16, 32, 64, 128
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_MOVE, MS_REC = 1024, 2048, 4096, 8192, 16384
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MS_RELATIME, MS_STRICTATIME = 1 << 21, 1 << 24
MNT_FORCE, MNT_DETACH = 1, 2

CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP = 0x80, 0x20000, 0x2000000
CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x4000000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
CLONE_INTO_CGROUP = 0x200000000

PR_CAPBSET_DROP, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 8, 38, 47
PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4

_SYS_PIVOT_ROOT, _SYS_CAPSET, _SYS_FINIT_MODULE, _SYS_CLONE3, _SYS_OPENAT2, _SYS_REBOOT = 155, 126, 313, 435, 437, 169
_RESOLVE_IN_ROOT = 0x10
_RNDADDENTROPY, _RNDRESEEDCRNG = 0x40085203, 0x5207
_CAPABILITY_VERSION_3 = 0x20080522


def _check(result: int, subject: str = "") -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), subject or None)
    return result


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    _check(_libc.mount(_bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(data)), target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_bytes(target), flags), target)


def syncfs(path: str) -> None:
    """syncfs(2) of the file system that a path is on."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.syncfs(fd), path)
    finally:
        os.close(fd)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    _check(_libc.syscall(_SYS_PIVOT_ROOT, _bytes(new), _bytes(old)), new)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags))


def setns(fd: int, flags: int) -> None:
    """setns(2); with a pidfd and several flags at once (Linux 5.8)."""
    _check(_libc.setns(fd, flags))


def fork_with(flags: int, cgroup: int = -1) -> int:
    """clone3(2) that behaves like fork: 0 in the child, its pid in the parent.

    `cgroup` is a descriptor of the cgroup v2 directory in which the child starts (Linux 5.7). Only for single-threaded
    processes: Python's own fork hooks do not run.
    """
    if cgroup >= 0:
        flags |= CLONE_INTO_CGROUP
    arguments = struct.pack("11Q", flags, 0, 0, 0, 17, 0, 0, 0, 0, 0, max(cgroup, 0))  # exit_signal 17: SIGCHLD
    return _check(_libc.syscall(_SYS_CLONE3, arguments, ctypes.c_size_t(len(arguments))))


def open_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
    """openat2(2) with RESOLVE_IN_ROOT: no link and no `..` leads out of `root`."""
    how = struct.pack("3Q", flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT)
    return _check(_libc.syscall(_SYS_OPENAT2, root, _bytes(path), how, ctypes.c_size_t(len(how))), path)


def prctl(option: int, *arguments: int) -> int:
    """prctl(2)."""
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return _check(_libc.prctl(option, *padded))


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2), version 3; bit n is capability n."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    masks = (effective, permitted, inheritable)
    data = struct.pack("6I", *(mask & 0xFFFFFFFF for mask in masks), *(mask >> 32 for mask in masks))
    _check(_libc.syscall(_SYS_CAPSET, header, data))


def load_module(path: str) -> None:
    """finit_module(2); a module that is loaded already is fine."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.syscall(_SYS_FINIT_MODULE, fd, b"", 0), path)
    except FileExistsError:
        pass
    finally:
        os.close(fd)


def set_domainname(name: str) -> None:
    """setdomainname(2)."""
    encoded = name.encode()
    _check(_libc.setdomainname(encoded, ctypes.c_size_t(len(encoded))))


def add_entropy(data: bytes) -> None:
    """Credit bytes to the kernel's pool and make its generator use them now (random(4))."""
    fd = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _RNDADDENTROPY, struct.pack("ii", len(data) * 8, len(data)) + data)
        fcntl.ioctl(fd, _RNDRESEEDCRNG)
    finally:
        os.close(fd)


def power_off() -> None:
    """reboot(2) with RB_POWER_OFF. Does not return."""
    _check(_libc.syscall(_SYS_REBOOT, 0xFEE1DEAD, 672274793, 0x4321FEDC, None))


def set_terminal_size(fd: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ."""
    fcntl.ioctl(fd, 0x5414, struct.pack("4H", rows, columns, 0, 0))
