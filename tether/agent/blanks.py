"""Blank disks get their file system from the guest, where whoever made them could not write to them: on a datastore."""

import os

from tether.agent.child import child
from tether.agent.reaper import Reaper
from tether.rpc.status import Code, RpcError

# The boot block and the superblock (Documentation/filesystems/ext4: "Layout"). mke2fs writes the superblock last, so that
# one that was cut off leaves a disk that still is blank.
_HEAD = 2048
_MOST_SAID = 2000


def is_blank(node: str) -> bool:
    """Whether a disk has had no file system yet. OSError when it cannot be read."""
    fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not any(os.pread(fd, _HEAD, 0))
    finally:
        os.close(fd)


async def fill(reaper: Reaper, node: str, options: list[str]) -> None:
    """Make an ext4 on a disk if it is blank. RpcError with mke2fs's words when that fails."""
    if not is_blank(node):
        return

    def work(_: int, out: int) -> None:
        os.dup2(out, 2)
        os.execve("/bin/mke2fs", ["mke2fs", "-q", "-F", "-t", "ext4", *options, node], {"PATH": "/bin"})

    said = b""
    async with child(reaper, work) as program:
        while data := await program.output.read():
            said = (said + data)[-_MOST_SAID:]
        status = await program.wait()
    if status:
        raise RpcError(Code.FAILED_PRECONDITION, f"mke2fs: {said.decode('utf-8', 'replace').strip()}")
