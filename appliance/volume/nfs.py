"""Volume stores on NFS servers (RFC 7530), by libnfs: each volume is a directory, which machines mount themselves.

This module only makes, lists and removes the directories. The server must export the store's path to this host and to the machines.
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
# A volume that is being removed has this prefix: half of its files must not look like a volume.
_LEAVING = ".removed-"


def is_nfs(place: str) -> bool:
    """Whether the place of a volume store is on an NFS server."""
    return place.startswith("nfs:")


class _Entry(ctypes.Structure):
    """The first members of libnfs's struct nfsdirent."""

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
    """A volume store at `path` on `server`, used as the user `uid`:`gid`. This appliance uses the folder `tenant` in it."""

    server: str
    path: str
    uid: int
    gid: int
    tenant: str

    @classmethod
    def parse(cls, text: str, tenant: str) -> "NfsStore":
        """nfs://SERVER/PATH?uid=0&gid=0. InvalidParameter for anything else."""
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
        """What machines mount for a volume: SERVER:/PATH."""
        return f"{self.server}:{self.path}/{self.tenant}/{name}"

    async def create(self, name: str) -> None:
        """Make a volume's directory, or keep an existing one. Unavailable says why it failed."""
        await trio.to_thread.run_sync(self._create, name)

    async def remove(self, name: str) -> None:
        """Remove a volume's directory with its content. A missing directory is not an error. Unavailable says why it failed."""
        await trio.to_thread.run_sync(self._remove, name)

    async def recover(self) -> list[str]:
        """Finish removals that were interrupted; return the names of the volumes. Unavailable when the server does not answer."""
        return await trio.to_thread.run_sync(self._recover, abandon_on_cancel=True)

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

    def _create(self, name: str) -> None:
        with self._mounted() as mount:
            mount.make(f"/{self.tenant}")
            mount.make(f"/{self.tenant}/{name}")

    def _remove(self, name: str) -> None:
        with self._mounted() as mount:
            leaving = f"/{self.tenant}/{_LEAVING}{name}-{os.urandom(4).hex()}"
            if mount.rename(f"/{self.tenant}/{name}", leaving):
                mount.remove(leaving)

    def _recover(self) -> list[str]:
        with self._mounted() as mount:
            found = mount.entries(f"/{self.tenant}")
            for name, is_directory in found:
                if is_directory and name.startswith(_LEAVING):
                    mount.remove(f"/{self.tenant}/{name}")
            return [name for name, is_directory in found if is_directory and not name.startswith(".")]


class _Mount:
    """An export that libnfs has mounted in this thread."""

    def __init__(self, library: ctypes.CDLL, context: ctypes.c_void_p, where: str) -> None:
        self._library = library
        self._context = context
        self._where = where

    def call(self, path: str, act: "partial[int]", *fine: int) -> bool:
        """Call libnfs. False for an errno in `fine`; Unavailable, with libnfs's text, for another errno."""
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
        """The names in a directory, and whether each is a directory. Empty when the directory does not exist."""
        folder = ctypes.c_void_p()
        act = partial(self._library.nfs_opendir, self._context, os.fsencode(path), ctypes.byref(folder))
        if not self.call(path, act, errno.ENOENT):
            return []
        found = []
        try:
            while entry := self._library.nfs_readdir(self._context, folder):
                name = os.fsdecode(entry.contents.name)
                # A hostile server must not lead us elsewhere by a name.
                if name not in (".", "..") and "/" not in name:
                    found.append((name, entry.contents.type == _DIRECTORY))
        finally:
            self._library.nfs_closedir(self._context, folder)
        return found

    def remove(self, path: str, depth: int = 0) -> None:
        """Remove a directory with its content."""
        if depth > _MOST_DEPTH:
            raise Unavailable(f"NFS {self._where}{path}: directories are nested too deeply to be removed")
        for name, is_directory in self.entries(path):
            below = f"{path}/{name}"
            if is_directory:
                self.remove(below, depth + 1)
            else:
                unlink = partial(self._library.nfs_unlink, self._context, os.fsencode(below))
                self.call(below, unlink, errno.ENOENT)
        self.call(path, partial(self._library.nfs_rmdir, self._context, os.fsencode(path)), errno.ENOENT)
