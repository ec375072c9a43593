"""Kernel modules that are loaded when somebody wants them."""

import os
from pathlib import Path

from tether.rpc.status import Code, RpcError
from tether.system import linux

# A line for each: the files of what it needs, in the order in which they can be loaded, and its own.
_LIST = Path("/lib/modules/later.list")


def load(name: str) -> None:
    """Load a module and what it needs. NOT_FOUND, or OSError as the kernel says it."""
    if os.path.exists(f"/sys/module/{name.replace('-', '_')}"):
        return
    for line in _LIST.read_text().splitlines():
        paths = line.split()
        if Path(paths[-1]).stem.replace("-", "_") == name.replace("-", "_"):
            for path in paths:
                linux.load_module(path)
            return
    raise RpcError(Code.NOT_FOUND, f"no kernel module {name}")
