"""Have the disk's first pages of a program read while the rest of its container is made."""

import os
import stat

from tether.launch.spec import Spec
from tether.system import linux

# Larger programs do not touch all of themselves.
_MOST = 4 << 20
# The kernel reads no more than so much ahead a call.
_PIECE = 512 << 10


def prefetch(spec: Spec) -> None:
    """Begin to read the program of a spec, whose root is mounted. What cannot be found or read is the start's to complain of."""
    try:
        root = os.open(spec.root.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        program = spec.process.args[0]
        if "/" in program:
            _read(root, os.path.join(spec.process.cwd, program))
            return
        path = next((entry[5:] for entry in spec.process.env if entry.startswith("PATH=")), "")
        for directory in path.split(":"):
            if _read(root, os.path.join(directory, program)):
                return
    finally:
        os.close(root)


def _read(root: int, path: str) -> bool:
    try:
        # Opened for reading only once it is known to be a file: a pipe or a device would wait, or worse.
        place = linux.open_in_root(root, path.lstrip("/"), os.O_PATH)
        try:
            found = os.fstat(place)
            if not stat.S_ISREG(found.st_mode):
                return False
            fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(place)
    except OSError:
        return False
    try:
        for start in range(0, min(found.st_size, _MOST), _PIECE):
            os.posix_fadvise(fd, start, _PIECE, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(fd)
    return True
