"""Unix sockets of this host as sources of mounts: which kinds a machine can reach, and connecting to them."""

import ctypes
import errno
import os
import platform
import socket
import stat
import threading
from functools import partial

import trio

from appliance.errors import InvalidParameter
from tether.transport.unix_socket import connect_unix

_DIAL_SECONDS = 30.0
# Numbers of setresuid(2) and setresgid(2). glibc's functions change all threads of the process.
_SETRES = {"x86_64": (117, 119), "aarch64": (147, 149)}
_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP = 28, 4
_libc = ctypes.CDLL(None, use_errno=True)


class HostSocket:
    """A unix socket by its path, which may come and go."""

    def __init__(self, path: str) -> None:
        self._path = path
        # When the server's queue is full, connections wait for their turn here, and one of them tries again and again.
        self._turn = trio.Lock()

    async def dial(self, uid: int, gid: int) -> trio.SocketStream:
        """Connect as this user and group, which the program at the socket may ask for (SO_PEERCRED), if vchd has the rights of root.

        OSError when there is no socket, or when nothing accepts the connection for a while.
        """
        place = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        try:
            with trio.fail_after(_DIAL_SECONDS):
                async with self._turn:
                    if os.geteuid() or not (uid or gid):
                        return await connect_unix(place)
                    return await connect_unix(place, partial(_connect_as, uid, gid))
        except trio.TooSlowError:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        finally:
            os.close(place)


async def _connect_as(uid: int, gid: int, made: socket.socket, path: str) -> None:
    """Call connect(2) in a new thread with the user and group. Nothing else ever runs with these credentials."""
    failed: list[OSError] = []

    def connect() -> None:
        try:
            _become(uid, gid)
            made.connect(path)
        except OSError as error:
            failed.append(error)

    def run() -> None:
        thread = threading.Thread(target=connect, name="connect")
        thread.start()
        thread.join()

    await trio.to_thread.run_sync(run)
    if failed:
        raise failed[0]


def _become(uid: int, gid: int) -> None:
    """Give this thread an effective user and group; it keeps its capabilities.

    The guest's kernel has checked the process's rights to the socket, supplementary groups included, so this host's must not.
    """
    setresuid, setresgid = _SETRES.get(platform.machine(), (0, 0))
    if not setresuid:
        raise OSError(errno.ENOSYS, "connecting as another user is not supported on this processor")
    for call in (
        partial(_libc.prctl, _PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0),
        partial(_libc.syscall, setresgid, -1, ctypes.c_uint(gid), -1),
        partial(_libc.syscall, setresuid, -1, ctypes.c_uint(uid), -1),
    ):
        if call():
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def rights_of(path: str) -> tuple[int, int, int]:
    """The permission bits, uid and gid of a socket; those of Docker's own socket, if there is none at this path."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0o660, 0, 0
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def is_socket(path: str) -> bool:
    """Whether a path leads to a unix socket; false when it leads nowhere."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_kind(path: str) -> None:
    """InvalidParameter for a kind of socket whose connections cannot be relayed."""
    try:
        kind = kind_of(path)
    except OSError:
        return  # The socket is gone again. Connections will fail.
    if kind != socket.SOCK_STREAM:
        raise InvalidParameter(
            f'invalid mount config for type "bind": {path} is a socket of type {socket.SocketKind(kind).name}: only connections of '
            "SOCK_STREAM sockets can be relayed to a machine"
        )


def kind_of(path: str) -> int:
    """The kind of a socket: SOCK_STREAM, also when nothing listens at it, SOCK_DGRAM or SOCK_SEQPACKET.

    A connect of another kind fails with EPROTOTYPE (net/unix/af_unix.c, unix_find_bsd), and the program at the socket does not
    notice it.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
                try:
                    probe.connect(f"/proc/self/fd/{place}")
                except BlockingIOError:
                    return kind
                except OSError:
                    continue
                return kind
    finally:
        os.close(place)
    return socket.SOCK_STREAM
