"""Make a file system on a blank disk. The guest does so where the appliance cannot write to the disk: on a datastore."""

import os

from tether.agent.child import run_program
from tether.agent.reaper import Reaper

# The boot block and the superblock (Documentation/filesystems/ext4: "Layout"). mke2fs writes the superblock last, so an
# interrupted mke2fs leaves a disk that still counts as blank.
_HEAD = 2048


def is_blank(node: str) -> bool:
    """Whether a disk has no file system. OSError when the disk cannot be read."""
    fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not any(os.pread(fd, _HEAD, 0))
    finally:
        os.close(fd)


async def format_if_blank(reaper: Reaper, node: str, options: list[str]) -> None:
    """Make an ext4 file system on a blank disk; leave any other disk alone. RpcError with the output of mke2fs on failure."""
    if not is_blank(node):
        return
    await run_program(reaper, "/bin/mke2fs", ["mke2fs", "-q", "-F", "-t", "ext4", *options, node], "mke2fs")
