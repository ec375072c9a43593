"""Volume stores that NFS servers have (RFC 7530): a directory for each volume, which machines mount themselves. By libnfs.

Here they are made, listed and removed only. The server has to export the store's path to this host and to the machines.
"""

import ctypes
import errno
import logging
import os
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

import trio

from appliance.errors import InvalidParameter, Unavailable

log = logging.getLogger(__name__)

_TIMEOUT_MS = 10_000
_DIRECTORY = 2
_MOST_DEPTH = 500
# What is on its way out, so that nobody takes half of it for a volume.
_LEAVING = ".removed-"


def is_nfs(place: str) -> bool:
    """Whether a volume store of that place is a server's."""
    return place.startswith("nfs:")


class _Entry(ctypes.Structure):
    """The beginning of libnfs's nfsdirent."""

    _fields_ = [
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("inode", ctypes.c_uint64),
        ("type", ctypes.c_uint32),
    ]


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnfs.so.13")
    except OSError as error:
        raise Unavailable(f"libnfs (Debian: libnfs13) is missing: {error}") from error
    library.nfs_init_context.restype = ctypes.c_void_p
    library.nfs_get_error.restype = ctypes.c_char_p
    library.nfs_readdir.restype = ctypes.POINTER(_Entry)
    return library


@dataclass(frozen=True, slots=True)
class NfsStore:
    """`path` on `server`, as the user `uid`:`gid`; ours in it is the folder of `tenant`."""

    server: str
    path: str
    uid: int
    gid: int
    tenant: str

    @classmethod
    def parse(cls, text: str, tenant: str) -> "NfsStore":
        """nfs://SERVER/PATH?uid=0&gid=0. InvalidParameter for what is none."""
        url = urllib.parse.urlsplit(text)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        numbers = [query.pop(key, "0") for key in ("uid", "gid")]
        if url.scheme != "nfs" or not url.hostname or not url.path.startswith("/") or url.port or query:
            raise InvalidParameter(f"{text} is not nfs://SERVER/PATH?uid=UID&gid=GID")
        if not all(number.isdecimal() and int(number) < 1 << 31 for number in numbers):
            raise InvalidParameter(f"{text}: uid and gid are numbers")
        uid, gid = map(int, numbers)
        return cls(url.hostname, urllib.parse.unquote(url.path).rstrip("/"), uid, gid, tenant)

    def device(self, name: str) -> str:
        """A volume of it, as machines mount it: SERVER:/PATH."""
        return f"{self.server}:{self.path}/{self.tenant}/{name}"

    async def make(self, name: str) -> None:
        """Have a directory for a volume; one that is there is its. Unavailable says why it cannot be."""
        await trio.to_thread.run_sync(self._make, name)

    async def remove(self, name: str) -> None:
        """Remove a volume's directory with all that is in it; one that is not there is no error."""
        await trio.to_thread.run_sync(self._remove, name)

    async def tidy(self) -> list[str]:
        """Remove what was left half removed; the names of the volumes that are there."""
        return await trio.to_thread.run_sync(self._tidy, abandon_on_cancel=True)

    # -- in threads -----------------------------------------------------------------------------------------------

    @contextmanager
    def _mounted(self) -> Iterator["_Mount"]:
        library = _library()
        context = ctypes.c_void_p(library.nfs_init_context())
        try:
            library.nfs_set_version(context, 4)
            library.nfs_set_uid(context, self.uid)
            library.nfs_set_gid(context, self.gid)
            library.nfs_set_timeout(context, _TIMEOUT_MS)
            library.nfs_set_autoreconnect(context, 0)
            mount = _Mount(library, context, f"{self.server}:{self.path}")
            mount.call("", partial(library.nfs_mount, context, self.server.encode(), (self.path or "/").encode()))
            yield mount
        finally:
            library.nfs_destroy_context(context)

    def _make(self, name: str) -> None:
        with self._mounted() as mount:
            mount.make(f"/{self.tenant}")
            mount.make(f"/{self.tenant}/{name}")

    def _remove(self, name: str) -> None:
        with self._mounted() as mount:
            leaving = f"/{self.tenant}/{_LEAVING}{name}-{os.urandom(4).hex()}"
            if mount.rename(f"/{self.tenant}/{name}", leaving):
                mount.remove(leaving)

    def _tidy(self) -> list[str]:
        with self._mounted() as mount:
            found = mount.entries(f"/{self.tenant}")
            for name, is_directory in found:
                if is_directory and name.startswith(_LEAVING):
                    mount.remove(f"/{self.tenant}/{name}")
            return [name for name, is_directory in found if is_directory and not name.startswith(".")]


class _Mount:
    """A server's export, mounted by libnfs, in this thread."""

    def __init__(self, library: ctypes.CDLL, context: ctypes.c_void_p, where: str) -> None:
        self._library = library
        self._context = context
        self._where = where

    def call(self, path: str, act: "partial[int]", *fine: int) -> bool:
        """Whether it was done: not, for an errno that is fine. Unavailable for others, with libnfs's words."""
        code = -act()
        if code > 0 and code not in fine:
            said = (self._library.nfs_get_error(self._context) or b"").decode("utf-8", "replace")
            raise Unavailable(f"NFS {self._where}{path}: {os.strerror(code).lower()}: {said}")
        return code <= 0

    def make(self, path: str) -> None:
        self.call(path, partial(self._library.nfs_mkdir2, self._context, os.fsencode(path), 0o755), errno.EEXIST)

    def rename(self, path: str, to: str) -> bool:
        act = partial(self._library.nfs_rename, self._context, os.fsencode(path), os.fsencode(to))
        return self.call(path, act, errno.ENOENT)

    def entries(self, path: str) -> list[tuple[str, bool]]:
        """Names, and whether each is a directory; none when it is not there."""
        folder = ctypes.c_void_p()
        act = partial(self._library.nfs_opendir, self._context, os.fsencode(path), ctypes.byref(folder))
        if not self.call(path, act, errno.ENOENT):
            return []
        found = []
        try:
            while entry := self._library.nfs_readdir(self._context, folder):
                name = os.fsdecode(entry.contents.name)
                # A name is one: no server leads elsewhere by it.
                if name not in (".", "..") and "/" not in name:
                    found.append((name, entry.contents.type == _DIRECTORY))
        finally:
            self._library.nfs_closedir(self._context, folder)
        return found

    def remove(self, path: str, depth: int = 0) -> None:
        """A directory, with all that is in it."""
        if depth > _MOST_DEPTH:
            raise Unavailable(f"NFS {self._where}{path}: it is too deep to be removed")
        for name, is_directory in self.entries(path):
            below = f"{path}/{name}"
            if is_directory:
                self.remove(below, depth + 1)
            else:
                unlink = partial(self._library.nfs_unlink, self._context, os.fsencode(below))
                self.call(below, unlink, errno.ENOENT)
        self.call(path, partial(self._library.nfs_rmdir, self._context, os.fsencode(path)), errno.ENOENT)
