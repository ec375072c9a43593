"""Runs in a container: tries calls that file systems may refuse in each directory of argv; prints {directory: {call: result}}.

A result is "ok", or the name of the errno, or what was wrong.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import socket
import stat
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE, _RENAME_WHITEOUT = 1, 2, 4
_KEEP_SIZE, _PUNCH_HOLE, _COLLAPSE_RANGE, _ZERO_RANGE, _INSERT_RANGE = 1, 2, 8, 16, 32
_PAGE = 4096


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def new(name: str, data: bytes = b"") -> int:
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(fd, data)
    return fd


def tmpfile() -> None:
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"x")
    os.close(fd)


def tmpfile_linked() -> None:
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.link(f"/proc/self/fd/{fd}", "linked", follow_symlinks=True)
    assert os.path.exists("linked")


def rename(flags: int) -> None:
    for name in ("one", "two"):
        os.close(new(name, name.encode()))
    if flags != _RENAME_EXCHANGE:
        os.unlink("two")
    checked(libc.renameat2(_AT_FDCWD, b"one", _AT_FDCWD, b"two", flags))
    with open("two") as file:
        assert file.read() == "one"


def exchange_directories() -> None:
    os.mkdir("d1")
    os.mkdir("d2")
    checked(libc.renameat2(_AT_FDCWD, b"d1", _AT_FDCWD, b"d2", _RENAME_EXCHANGE))


def rename_directory() -> None:
    os.mkdir("from")
    os.close(new("from/file"))
    os.rename("from", "to")
    assert os.listdir("to") == ["file"]


def whiteout() -> None:
    os.mknod("whiteout", stat.S_IFCHR, os.makedev(0, 0))


def fifo() -> None:
    os.mkfifo("fifo")


def unix_socket() -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("socket")
        listener.listen()
        client.connect("socket")


def file_handle() -> None:
    os.close(new("handled"))
    handle = ctypes.create_string_buffer(struct.pack("II", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    checked(libc.name_to_handle_at(_AT_FDCWD, b"handled", handle, ctypes.byref(mount), 0))


def xattr(name: str) -> None:
    fd = new("attributes")
    os.setxattr(fd, name, b"value")
    assert os.getxattr(fd, name) == b"value"


def acl() -> None:
    os.close(new("acl"))
    entries = ((1, 6, -1), (2, 6, 7), (4, 4, -1), (16, 6, -1), (32, 4, -1))
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr("acl", "system.posix_acl_access", value)


def capability() -> None:
    os.close(new("capable"))
    os.setxattr("capable", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))


def lock(kind: str) -> None:
    fd, other = new("locked"), os.open("locked", os.O_RDWR)
    exclusive = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    if kind == "flock":
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif kind == "ofd":
        fcntl.fcntl(fd, 37, exclusive)
    elif kind == "lease":
        fcntl.fcntl(other, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(other)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        return
    else:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    child = os.fork()
    if not child:
        held = 0
        try:
            taken = os.open("locked", os.O_RDWR)
            if kind == "flock":
                fcntl.flock(taken, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                fcntl.lockf(taken, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            held = 1
        os._exit(held)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1, "not exclusive"


def mapped(flags: int) -> None:
    fd = new("mapped", bytes(_PAGE))
    with mmap.mmap(fd, _PAGE, flags) as area:
        area[:5] = b"hello"
        if flags == mmap.MAP_SHARED:
            area.flush()
    assert os.pread(fd, 5, 0) == (b"hello" if flags == mmap.MAP_SHARED else bytes(5))


def fallocate(mode: int) -> None:
    fd = new("allocated", b"x" * 4 * _PAGE)
    checked(libc.fallocate64(fd, mode, ctypes.c_int64(_PAGE), ctypes.c_int64(_PAGE)))


def seek_hole() -> None:
    fd = new("holes")
    os.ftruncate(fd, 64 * _PAGE)
    os.pwrite(fd, b"x", 32 * _PAGE)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 32 * _PAGE, "no holes seen"


def splice() -> None:
    fd, (read, write) = new("spliced", b"hello"), os.pipe()
    assert os.splice(fd, write, 5, offset_src=0) == 5
    assert os.splice(read, new("target"), 5) == 5


def copy_range() -> None:
    assert os.copy_file_range(new("copied", b"hello"), new("copy"), 5, 0) == 5


def sendfile() -> None:
    assert os.sendfile(new("sent2"), new("sent", b"hello"), 0, 5) == 5


def reflink() -> None:
    fcntl.ioctl(new("clone"), 0x40049409, new("cloned", b"x" * _PAGE))


def inotify() -> None:
    fd = checked(libc.inotify_init1(os.O_NONBLOCK))
    checked(libc.inotify_add_watch(fd, b".", 0x100))
    os.close(new("noticed"))
    assert b"noticed" in os.read(fd, 4096)


def direct() -> None:
    fd = os.open("direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    with mmap.mmap(-1, _PAGE) as area:
        assert os.pwritev(fd, [area], 0) == _PAGE
        assert os.preadv(fd, [area], 0) == _PAGE


def handle_opened() -> None:
    os.close(new("opened"))
    handle = ctypes.create_string_buffer(struct.pack("II", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    checked(libc.name_to_handle_at(_AT_FDCWD, b"opened", handle, ctypes.byref(mount), 0))
    checked(libc.open_by_handle_at(os.open(".", os.O_RDONLY), handle, os.O_RDONLY))


def immutable() -> None:
    fd = new("immutable")
    flags = bytearray(8)
    fcntl.ioctl(fd, 0x80086601, flags)


def open_and_unlinked() -> None:
    fd = new("gone", b"still")
    os.unlink("gone")
    os.fchmod(fd, 0o600)
    os.ftruncate(fd, 3)
    assert (os.pread(fd, 9, 0), os.fstat(fd).st_nlink) == (b"sti", 0)


def birth_time() -> None:
    os.close(new("born"))
    buffer = ctypes.create_string_buffer(256)
    checked(libc.statx(_AT_FDCWD, b"born", 0, 0x800, buffer))
    assert struct.unpack_from("I", buffer)[0] & 0x800, "not known"


def sync() -> None:
    fd = new("synced", b"x")
    os.fsync(fd)
    os.fdatasync(fd)
    checked(libc.syncfs(fd))
    directory = os.open(".", os.O_RDONLY)
    os.fsync(directory)


def set_group_id() -> None:
    os.mkdir("group")
    os.chown("group", 0, 5)
    os.chmod("group", 0o2775)
    os.close(new("group/inherits"))
    assert os.stat("group/inherits").st_gid == 5, "not inherited"


def execute() -> None:
    fd = os.open("script", os.O_WRONLY | os.O_CREAT, 0o755)
    os.write(fd, b"#!/bin/true\n")
    os.close(fd)
    os.chmod("script", 0o755)
    process = os.posix_spawn("script", ["script"], {})
    assert os.waitpid(process, 0)[1] == 0


CALLS = {
    "O_TMPFILE": tmpfile,
    "O_TMPFILE and linkat": tmpfile_linked,
    "RENAME_NOREPLACE": lambda: rename(_RENAME_NOREPLACE),
    "RENAME_EXCHANGE": lambda: rename(_RENAME_EXCHANGE),
    "RENAME_EXCHANGE of directories": exchange_directories,
    "RENAME_WHITEOUT": lambda: rename(_RENAME_WHITEOUT),
    "rename of a directory": rename_directory,
    "mknod of a whiteout": whiteout,
    "mkfifo": fifo,
    "unix socket": unix_socket,
    "name_to_handle_at": file_handle,
    "open_by_handle_at": handle_opened,
    "xattr user": lambda: xattr("user.a"),
    "xattr trusted": lambda: xattr("trusted.a"),
    "xattr security.capability": capability,
    "POSIX ACL": acl,
    "flock": lambda: lock("flock"),
    "fcntl lock": lambda: lock("fcntl"),
    "OFD lock": lambda: lock("ofd"),
    "lease": lambda: lock("lease"),
    "mmap shared": lambda: mapped(mmap.MAP_SHARED),
    "mmap private": lambda: mapped(mmap.MAP_PRIVATE),
    "fallocate": lambda: fallocate(0),
    "fallocate KEEP_SIZE": lambda: fallocate(_KEEP_SIZE),
    "fallocate PUNCH_HOLE": lambda: fallocate(_KEEP_SIZE | _PUNCH_HOLE),
    "fallocate ZERO_RANGE": lambda: fallocate(_ZERO_RANGE),
    "fallocate COLLAPSE_RANGE": lambda: fallocate(_COLLAPSE_RANGE),
    "fallocate INSERT_RANGE": lambda: fallocate(_INSERT_RANGE),
    "SEEK_DATA": seek_hole,
    "splice": splice,
    "copy_file_range": copy_range,
    "sendfile": sendfile,
    "FICLONE": reflink,
    "inotify": inotify,
    "O_DIRECT": direct,
    "FS_IOC_GETFLAGS": immutable,
    "unlinked but open": open_and_unlinked,
    "statx birth time": birth_time,
    "fsync, syncfs": sync,
    "setgid directory": set_group_id,
    "execute a script": execute,
}


def attempt(folder: str, number: int, name: str) -> str:
    place = f"{folder}/try{number}"
    os.mkdir(place)
    os.chdir(place)
    try:
        CALLS[name]()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except AssertionError as error:
        return str(error) or "wrong result"
    return "ok"


if __name__ == "__main__":
    os.umask(0)
    print(
        json.dumps(
            {
                folder: {name: attempt(folder, number, name) for number, name in enumerate(CALLS)}
                for folder in sys.argv[1:]
            }
        )
    )
