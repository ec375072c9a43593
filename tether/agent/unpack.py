"""Tar archives into a directory of a container: `docker cp` to a container. Runs in a child whose root is the container's.

Users are looked up in the container's /etc/passwd alone: the C library would load plug-ins of the container.
"""

import errno
import os
import posixpath
import shutil
import stat
import tarfile

from tether.agent.container_path import ContainerPath
from tether.agent.pack import PIECE, write_all
from tether.launch.credentials import look_up_user
from tether.launch.failure import LaunchFailure
from tether.launch.oci import User
from tether.rpc.status import Code, RpcError

# The bytes of one member's headers: a hostile archive may claim any size.
_MOST_META = 16 << 20


class _ForwardReader:
    """A descriptor as the file object that tarfile reads: forward only, in pieces of bounded size."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = b""
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        while self._position < position and self.read(min(position - self._position, PIECE)):
            pass

    def read(self, size: int) -> bytes:
        if size > _MOST_META:
            raise tarfile.ReadError("a member's meta data is too large")
        parts = []
        while size:
            if not self._buffer:
                self._buffer = os.read(self._fd, PIECE)
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
            self._buffer = os.read(self._fd, PIECE)
        return not self._buffer

    def copy_to(self, out: int, size: int) -> None:
        while size:
            data = self.read(min(size, len(self._buffer) or PIECE))
            if not data:
                raise tarfile.ReadError("unexpected EOF")
            size -= len(data)
            write_all(out, data)

    def drain(self) -> None:
        while os.read(self._fd, PIECE):
            pass


def _refuse(text: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, text)


def _climbs(name: str) -> bool:
    """Whether a normal relative path leaves the directory that it starts in."""
    return name == ".." or name.startswith("../")


class _Unpacker:
    """Unpacks members into the working directory, as moby's pkg/archive does."""

    def __init__(self, source: _ForwardReader, no_overwrite_dir_non_dir: bool, owner: tuple[int, int] | None) -> None:
        self._source = source
        self._careful = no_overwrite_dir_non_dir
        self._owner = owner
        # Directories and their times, set last: unpacking into a directory changes its time.
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
        self._set_attributes(name, member)

    def _make_room(self, name: str, member: tarfile.TarInfo) -> bool:
        """Remove what the member replaces, unless both are directories. Return False when there is nothing left to do."""
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
                    data = reader.read(min(size, PIECE))
                    if not data:
                        raise tarfile.ReadError("unexpected EOF")
                    os.pwrite(fd, data, position)
                    position += len(data)
                    size -= len(data)
        finally:
            os.close(fd)

    def _set_attributes(self, name: str, member: tarfile.TarInfo) -> None:
        os.lchown(name, *(self._owner or (member.uid, member.gid)))
        for key, value in member.pax_headers.items():
            if key.startswith("SCHILY.xattr."):
                try:
                    os.setxattr(name, key[13:], value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
                except OSError:
                    pass  # Docker also ignores attributes that the file system refuses.
        if member.issym():
            os.utime(name, (member.mtime, member.mtime), follow_symlinks=False)
            return
        os.chmod(name, member.mode & 0o7777)
        if member.isdir():
            self._times.append((name, member.mtime))
        else:
            os.utime(name, (member.mtime, member.mtime))


def unpack(path: str, source: int, *, no_overwrite_dir_non_dir: bool, owner: str) -> int:
    """Unpack the archive that `source` yields into the directory `path`, following links; return the number of members.

    Raises RpcError or OSError. Members that were unpacked before a failure stay, as with Docker.
    """
    real = os.path.realpath(ContainerPath.of(path).path)
    if not stat.S_ISDIR(os.lstat(real).st_mode):
        raise RpcError(Code.FAILED_PRECONDITION, "extraction point is not a directory")
    owners = None
    if owner:
        try:
            uid, gid, _, _ = look_up_user(User(username=owner))
        except LaunchFailure as error:
            raise _refuse(str(error)) from error
        owners = (uid, gid)
    os.chdir(real)
    os.umask(0o022)
    unpacker = _Unpacker(_ForwardReader(source), no_overwrite_dir_non_dir, owners)
    try:
        unpacker.run()
    finally:
        os.sync()
    return unpacker.entries
