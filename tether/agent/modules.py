"""Kernel modules that are loaded on demand.

The initrd has the modules that the tether itself needs. All others are on the modules disk, which is mounted when it is first needed.
Then the kernel finds modules as on a host: it calls /sbin/modprobe of the guest, for the first mount of a file system, the first
iptables rule, the first use of a device node.
"""

import os
import stat
from pathlib import Path

from tether.agent.child import run_program
from tether.agent.reaper import Reaper
from tether.rpc.status import Code, RpcError
from tether.system import linux

# Where build/guest/mount-modules mounts the modules disk.
DISK = "/run/tether/modules"
# What it mounts.
MOUNTS = (DISK, "/run/tether/cd")
_MOUNT = "/bin/mount-modules"
_MODPROBE = Path("/sbin/modprobe")
_DEV = Path("/dev")
# `PATH c|b MAJOR MINOR` of each device node whose first use loads a module.
_NODES = Path("/lib/modules/nodes.list")
# As udev's rules (50-udev-default.rules) on Debian; all other nodes belong to root alone.
_FOR_ALL = ("fuse", "net/tun")

# One line for each module: the files of its dependencies in loading order, then its own file.
_LIST = Path("/lib/modules/later.list")


def load(name: str) -> None:
    """Load a module and its dependencies. RpcError NOT_FOUND when the guest does not have it, OSError of the kernel."""
    if os.path.exists(f"/sys/module/{name.replace('-', '_')}"):
        return
    for line in _LIST.read_text().splitlines():
        paths = line.split()
        if Path(paths[-1]).stem.replace("-", "_") == name.replace("-", "_"):
            for path in paths:
                linux.load_module(path)
            return
    raise RpcError(Code.NOT_FOUND, f"no kernel module {name}")


def prepare_autoload() -> None:
    """Let the kernel load modules from the modules disk, and make the device nodes whose first use does so."""
    # Not in the initrd: the kernel itself asks for modules before init runs, and none of them is needed.
    _MODPROBE.parent.mkdir(exist_ok=True)
    _MODPROBE.symlink_to("/bin/modprobe")
    for line in _NODES.read_text().splitlines():
        name, kind, major, minor = line.split()
        node = _DEV / name
        node.parent.mkdir(exist_ok=True)
        mode = 0o666 if name in _FOR_ALL else 0o600
        try:
            os.mknod(node, (stat.S_IFBLK if kind == "b" else stat.S_IFCHR) | mode, os.makedev(int(major), int(minor)))
            node.chmod(mode)
        except FileExistsError:
            continue  # the driver is built in


async def mount_disk(reaper: Reaper) -> None:
    """Mount the modules disk. RpcError when this machine has none."""
    await run_program(reaper, "/bin/busybox", ["sh", _MOUNT], "modules of the kernel")
