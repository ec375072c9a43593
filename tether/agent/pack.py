"""Trees of files as tar archives (POSIX pax): `docker cp` from a container, export. Runs in a child whose root is the container's."""

import errno
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator

from tether.agent.container_path import ContainerPath

# Kernel file systems: their files are not on the container's disks.
KERNEL = frozenset(("/proc", "/sys", "/dev"))
_KEPT_XATTRS = ("user.", "security.capability")
PIECE = 256 << 10
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


class Packer:
    """Writes members of an archive to a descriptor."""

    def __init__(self, out: int) -> None:
        self._out = out
        self._links: dict[tuple[int, int], str] = {}

    def add(self, path: str, name: str, found: os.stat_result) -> None:
        """Add one entry as `name`; of a directory the entry alone. Sockets are left out, as in Docker."""
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.uid, info.gid = kind, found.st_mode & 0o7777, found.st_uid, found.st_gid
        info.mtime = max(0, int(found.st_mtime))
        if kind == tarfile.SYMTYPE:
            info.linkname = os.readlink(path)
        elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            info.devmajor, info.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
        if kind != tarfile.DIRTYPE and found.st_nlink > 1:
            first = self._links.setdefault((found.st_dev, found.st_ino), name)
            if first != name:
                info.type, info.linkname = tarfile.LNKTYPE, first
                self._header(info)
                return
        if kind in (tarfile.REGTYPE, tarfile.DIRTYPE):
            info.pax_headers = _kept_xattrs(path)
        if kind == tarfile.REGTYPE:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                info.size = found.st_size
                self._header(info)
                self._content(fd, found.st_size)
            finally:
                os.close(fd)
        else:
            self._header(info)

    def add_if_there(self, path: str, name: str, found: os.stat_result) -> None:
        """Add an entry, unless it has been deleted meanwhile."""
        try:
            self.add(path, name, found)
        except FileNotFoundError:
            pass

    def add_empty(self, name: str) -> None:
        self._header(tarfile.TarInfo(name))

    def finish(self) -> None:
        self._write(bytes(1024))

    def _header(self, info: tarfile.TarInfo) -> None:
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _content(self, fd: int, size: int) -> None:
        """Write exactly `size` bytes, as the header announces: a file that shrinks meanwhile is filled up with zeros."""
        left = size
        while left:
            try:
                sent = os.sendfile(self._out, fd, size - left, left)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # The file system does not support sendfile.
                data = os.pread(fd, min(left, PIECE), size - left)
                self._write(data)
                sent = len(data)
            if not sent:
                self._write(bytes(min(left, PIECE)))
                sent = min(left, PIECE)
            left -= sent
        self._write(bytes(-size % 512))

    def _write(self, data: bytes) -> None:
        write_all(self._out, data)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _kept_xattrs(path: str) -> dict[str, str]:
    try:
        names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith(_KEPT_XATTRS)]
        return {
            f"SCHILY.xattr.{name}": os.getxattr(path, name, follow_symlinks=False).decode("utf-8", "surrogateescape")
            for name in names
        }
    except OSError:
        return {}  # The file system has no extended attributes.


def pack(path: str, out: int) -> None:
    """Write the file or tree at `path` to `out`, by names that begin with the path's last element. OSError when there is none."""
    place = ContainerPath.of(path)
    real = place.resolve()
    packer = Packer(out)
    top = os.lstat(real)
    packer.add(real, place.name, top)
    if stat.S_ISDIR(top.st_mode):
        inside = real in KERNEL or any(real.startswith(f"{one}/") for one in KERNEL)
        for below, found in _walk(real, frozenset() if inside else KERNEL):
            packer.add_if_there(posixpath.join(real, below), posixpath.join(place.name, below), found)
    packer.finish()


def pack_root(out: int) -> None:
    """Write the whole root to `out`, by relative names."""
    packer = Packer(out)
    for below, found in _walk("/", KERNEL):
        packer.add_if_there(f"/{below}", below, found)
    packer.finish()


def _walk(top: str, shallow: frozenset[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (path relative to `top`, its stat), a directory before its entries. Directories in `shallow` are not entered."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        path = posixpath.join(top, below)
        if below:
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                continue  # deleted meanwhile
            yield below, found
            if not stat.S_ISDIR(found.st_mode) or path in shallow:
                continue
        try:
            names = sorted(os.listdir(path), reverse=True)
        except FileNotFoundError:
            continue
        waiting += [posixpath.join(below, name) for name in names]
