"""Sparse files, and the check of their owner."""

import hashlib
import os
import stat
from pathlib import Path

_PIECE = 64 << 10
_ZEROS = bytes(_PIECE)


def copy_sparse(source: int, target: int | None) -> str:
    """Copy the data of a sparse file between descriptors; return the digest of size, positions and contents. Blocks.

    Without a target the function only computes the digest. Zeros become a hole in the copy.
    """
    size = os.fstat(source).st_size
    if target is not None:
        os.ftruncate(target, size)
    digest = hashlib.sha256(b"%d" % size)
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError:
            break  # ENXIO: only a hole remains
        # The file system decides where holes begin and end. The digest must not depend on it, so pieces are aligned.
        position = max(position, start - start % _PIECE)
        end = min(size, -(-os.lseek(source, start, os.SEEK_HOLE) // _PIECE) * _PIECE)
        while position < end:
            data = os.pread(source, min(_PIECE, size - position), position)
            if not data:
                raise OSError(f"the file was truncated at {position}")
            if data != _ZEROS[: len(data)]:
                digest.update(b"%d:" % position)
                digest.update(data)
                if target is not None:
                    _write(target, data, position)
            position += len(data)
    return digest.hexdigest()


def _write(fd: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view = view[written:]
        position += written


def check_owner(folder: Path) -> None:
    """ValueError when another user could have written a file in the folder."""
    for path in (folder.parent, folder, *folder.iterdir()):
        found = path.lstat()
        # In a sticky folder other users may create files, but not change ours.
        shared = found.st_mode & 0o022 and not (path == folder.parent and found.st_mode & stat.S_ISVTX)
        if (found.st_uid not in (0, os.geteuid())) or shared or stat.S_ISLNK(found.st_mode):
            raise ValueError(f"{path.name} may be written by others")
