"""Trees of files as tar archives and back (POSIX pax): what `docker cp` moves. Runs in a child whose root is the container's.

No name of a user is looked up here: that would run what the container has as its C library's plug-ins.
"""

import errno
import os
import posixpath
import shutil
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from tether.launch.credentials import look_up_user
from tether.launch.failure import LaunchFailure
from tether.launch.oci import User
from tether.rpc.status import Code, RpcError

# What is shown of the kernel, not kept on disks.
KERNEL = frozenset(("/proc", "/sys", "/dev"))
_KEPT_XATTRS = ("user.", "security.capability")
_PIECE = 256 << 10
# Of a member's meta data; a hostile archive may claim any size.
_MOST_META = 16 << 20
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


@dataclass(frozen=True, slots=True)
class Place:
    """A path as Docker reads it. `follows`: the last link too, since a slash is behind it; `name`: its last element."""

    path: str
    follows: bool
    name: str

    @classmethod
    def of(cls, text: str) -> "Place":
        clean = posixpath.normpath(f"/{text.lstrip('/')}")
        name = "." if text.endswith("/.") else posixpath.basename(clean) or "/"
        return cls(clean, clean == "/" or text.endswith(("/", "/.")), name)

    def resolve(self) -> str:
        """Where it leads: what comes before the last element has no links then."""
        if self.follows:
            return os.path.realpath(self.path)
        directory, base = posixpath.split(self.path)
        return posixpath.join(os.path.realpath(directory), base)


# -- packing ------------------------------------------------------------------------------------------------------------


class Packer:
    """Writes members to a descriptor."""

    def __init__(self, out: int) -> None:
        self._out = out
        self._links: dict[tuple[int, int], str] = {}

    def add(self, path: str, name: str, found: os.stat_result) -> None:
        """A file, a link, a directory without what is in it, as `name`. Sockets are left out, as Docker leaves them."""
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
        """The same for what may have gone meanwhile."""
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
        """As many bytes as the header says, whatever becomes of the file meanwhile."""
        left = size
        while left:
            try:
                sent = os.sendfile(self._out, fd, size - left, left)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # Not every file system hands its pages on.
                data = os.pread(fd, min(left, _PIECE), size - left)
                self._write(data)
                sent = len(data)
            if not sent:
                self._write(bytes(min(left, _PIECE)))
                sent = min(left, _PIECE)
            left -= sent
        self._write(bytes(-size % 512))

    def _write(self, data: bytes) -> None:
        _write_all(self._out, data)


def _write_all(fd: int, data: bytes) -> None:
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
        return {}  # a file system without any


def pack(path: str, out: int) -> None:
    """Write the file or tree at `path` to `out`, its names beginning with the path's last element. OSError when it is not there."""
    place = Place.of(path)
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
    """Write all of the root to `out`, by relative names."""
    packer = Packer(out)
    for below, found in _walk("/", KERNEL):
        packer.add_if_there(f"/{below}", below, found)
    packer.finish()


def _walk(top: str, shallow: frozenset[str]) -> Iterator[tuple[str, os.stat_result]]:
    """(path below `top`, what is there), a directory before what is in it; `shallow` ones are not looked into."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        path = posixpath.join(top, below)
        if below:
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                continue  # gone meanwhile
            yield below, found
            if not stat.S_ISDIR(found.st_mode) or path in shallow:
                continue
        try:
            names = sorted(os.listdir(path), reverse=True)
        except FileNotFoundError:
            continue
        waiting += [posixpath.join(below, name) for name in names]


# -- unpacking ----------------------------------------------------------------------------------------------------------


class _Forward:
    """A descriptor as the file that tarfile reads: only forward, in pieces of bounded size."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = b""
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        while self._position < position and self.read(min(position - self._position, _PIECE)):
            pass

    def read(self, size: int) -> bytes:
        if size > _MOST_META:
            raise tarfile.ReadError("a member's meta data is too large")
        parts = []
        while size:
            if not self._buffer:
                self._buffer = os.read(self._fd, _PIECE)
                if not self._buffer:
                    break
            part, self._buffer = self._buffer[:size], self._buffer[size:]
            parts.append(part)
            size -= len(part)
        data = b"".join(parts)
        self._position += len(data)
        return data

    def is_empty(self) -> bool:
        if not self._buffer:
            self._buffer = os.read(self._fd, _PIECE)
        return not self._buffer

    def copy_to(self, out: int, size: int) -> None:
        while size:
            data = self.read(min(size, len(self._buffer) or _PIECE))
            if not data:
                raise tarfile.ReadError("unexpected EOF")
            size -= len(data)
            _write_all(out, data)

    def drain(self) -> None:
        while os.read(self._fd, _PIECE):
            pass


def _refuse(text: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, text)


def _climbs(name: str) -> bool:
    """Whether a normal relative path leads out of where it begins."""
    return name == ".." or name.startswith("../")


class _Unpacker:
    """Members into the working directory, as moby's pkg/archive does it."""

    def __init__(self, source: _Forward, no_overwrite_dir_non_dir: bool, owner: tuple[int, int] | None) -> None:
        self._source = source
        self._careful = no_overwrite_dir_non_dir
        self._owner = owner
        # A directory's time changes with what is put into it.
        self._times: list[tuple[str, float]] = []
        self.entries = 0

    def run(self) -> None:
        if self._source.is_empty():
            return
        try:
            with tarfile.TarFile(fileobj=self._source, mode="r", errors="surrogateescape") as archive:  # type: ignore[arg-type]
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]
                    self._add(archive, member)
                    self.entries += 1
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            raise _refuse(f"Error processing tar file: {error}") from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            code = Code.RESOURCE_EXHAUSTED if full else Code.INVALID_ARGUMENT
            text = f"Error processing tar file: {error.filename or ''}: {str(error.strerror).lower()}"
            raise RpcError(code, text) from error
        for path, mtime in reversed(self._times):
            os.utime(path, (mtime, mtime))
        self._source.drain()

    def _add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = posixpath.normpath(member.name.lstrip("/") or ".")
        if _climbs(name):
            raise _refuse(f'"{member.name}" is outside of the directory that it is unpacked into')
        parent = posixpath.dirname(name)
        if parent and not os.path.lexists(parent):
            os.makedirs(parent, 0o755)
        if not self._make_room(name, member):
            return
        if member.isdir():
            if not os.path.isdir(name) or os.path.islink(name):
                os.mkdir(name, 0o700)
        elif member.isreg() or member.issparse():
            self._write_file(archive, member, name)
        elif member.issym():
            os.symlink(member.linkname, name)
        elif member.islnk():
            target = posixpath.normpath(member.linkname.lstrip("/"))
            if _climbs(target):
                raise _refuse(f'invalid hardlink "{member.name}" -> "{member.linkname}"')
            os.link(target, name, follow_symlinks=False)
            return
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(member.devmajor, member.devminor))
        elif member.isfifo():
            os.mkfifo(name, 0o600)
        else:
            raise _refuse(f'unhandled tar header type {member.type!r} of "{member.name}"')
        self._dress(name, member)

    def _make_room(self, name: str, member: tarfile.TarInfo) -> bool:
        """What was there before goes, unless both are directories; False when nothing is left to do."""
        try:
            there = os.lstat(name)
        except FileNotFoundError:
            return True
        is_directory = stat.S_ISDIR(there.st_mode)
        if self._careful and is_directory and not member.isdir():
            raise _refuse(f'cannot overwrite directory "{name}" with non-directory "{member.name}"')
        if self._careful and not is_directory and member.isdir():
            raise _refuse(f'cannot overwrite non-directory "{name}" with directory "{member.name}"')
        if is_directory and name == ".":
            return False
        if is_directory and not member.isdir():
            shutil.rmtree(name)
        elif not is_directory:
            os.unlink(name)
        return True

    def _write_file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            pieces: list[tuple[int, int]] | None = member.sparse  # type: ignore[assignment]
            if pieces is None:
                self._source.copy_to(fd, member.size)
                return
            os.ftruncate(fd, member.size)
            reader = archive.extractfile(member)
            assert reader is not None
            for position, size in pieces:
                reader.seek(position)
                while size:
                    data = reader.read(min(size, _PIECE))
                    if not data:
                        raise tarfile.ReadError("unexpected EOF")
                    os.pwrite(fd, data, position)
                    position += len(data)
                    size -= len(data)
        finally:
            os.close(fd)

    def _dress(self, name: str, member: tarfile.TarInfo) -> None:
        os.lchown(name, *(self._owner or (member.uid, member.gid)))
        for key, value in member.pax_headers.items():
            if key.startswith("SCHILY.xattr."):
                try:
                    os.setxattr(name, key[13:], value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
                except OSError:
                    pass  # not every file system has all of them, as with Docker
        if member.issym():
            os.utime(name, (member.mtime, member.mtime), follow_symlinks=False)
            return
        os.chmod(name, member.mode & 0o7777)
        if member.isdir():
            self._times.append((name, member.mtime))
        else:
            os.utime(name, (member.mtime, member.mtime))


def unpack(path: str, source: int, *, no_overwrite_dir_non_dir: bool, owner: str) -> int:
    """Unpack what `source` gives into the directory `path`, links followed; how many members. RpcError, OSError.

    What was unpacked before a failure stays, as with Docker.
    """
    real = os.path.realpath(Place.of(path).path)
    if not stat.S_ISDIR(os.lstat(real).st_mode):
        raise RpcError(Code.FAILED_PRECONDITION, "extraction point is not a directory")
    whom = None
    if owner:
        try:
            uid, gid, _, _ = look_up_user(User(username=owner))
        except LaunchFailure as error:
            raise _refuse(str(error)) from error
        whom = (uid, gid)
    os.chdir(real)
    os.umask(0o022)
    unpacker = _Unpacker(_Forward(source), no_overwrite_dir_non_dir, whom)
    try:
        unpacker.run()
    finally:
        os.sync()
    return unpacker.entries
