"""Kernel modules that are loaded on demand."""

import os
from pathlib import Path

from tether.rpc.status import Code, RpcError
from tether.system import linux

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
