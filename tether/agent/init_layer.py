"""Makes the layer between the image's layers and the container's: it holds the files that Docker adds to each container.

`docker diff` and `docker commit` do not count these files as changes of the container.

moby makes such a layer too (daemon/initlayer/setup_unix.go). /.dockerenv tells programs that they run in a container; readers of
the mount table find it at /etc/mtab.
"""

import os
import shutil
import stat
from collections.abc import Sequence

NAME = "init"


def make_init_layer(path: str, layers: Sequence[str]) -> None:
    """Make the layer at `path`, anew if it is there. `layers` are those of the image, highest first."""
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path, mode=0o755)
    with open(f"{path}/.dockerenv", "w") as file:
        os.fchmod(file.fileno(), 0o755)
    etc = _top_of(layers, "etc")
    if etc is not None and not stat.S_ISDIR(etc.st_mode):
        return  # A directory of this layer would hide the image's link.
    os.mkdir(f"{path}/etc", mode=0o755)
    os.symlink("/proc/mounts", f"{path}/etc/mtab")
    if etc is not None:
        # The attributes of a merged directory are those in its highest layer.
        os.chown(f"{path}/etc", etc.st_uid, etc.st_gid)
        os.chmod(f"{path}/etc", stat.S_IMODE(etc.st_mode))
        os.utime(f"{path}/etc", ns=(etc.st_atime_ns, etc.st_mtime_ns))


def _top_of(layers: Sequence[str], name: str) -> os.stat_result | None:
    for layer in layers:
        try:
            return os.lstat(f"{layer}/{name}")
        except FileNotFoundError:
            pass
    return None
