"""Read the program of a container into the page cache while the rest of the container is prepared."""

import os
import stat

from tether.launch.spec import Spec
from tether.system import linux

# A larger program does not touch all of its pages at start.
_MOST = 4 << 20
# The kernel reads no more than this ahead in one call.
_PIECE = 512 << 10


def prefetch(spec: Spec) -> None:
    """Start reading the program of a spec whose root is mounted. Failures are ignored: the start will report them."""
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
        # Check that it is a regular file before opening it for reading: opening a pipe or a device may block or do harm.
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
