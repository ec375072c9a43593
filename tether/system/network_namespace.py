"""Network namespaces of containers (network_namespaces(7)), by descriptors.

The tether has one thread, and no other task of it runs in a block without an await. So the tether may enter a namespace for such a block.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tether.system import linux
from tether.system.rtnetlink import loopback_up

_OWN = "/proc/thread-self/ns/net"


def _open_own() -> int:
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def make_network_namespace() -> int:
    """Make a network namespace with the loopback interface up. It lives as long as its descriptor, or a process in it."""
    before = _open_own()
    try:
        linux.unshare(linux.CLONE_NEWNET)
        try:
            loopback_up()
            return _open_own()
        finally:
            linux.setns(before, linux.CLONE_NEWNET)
    finally:
        os.close(before)


@contextmanager
def entered(namespace: int) -> Iterator[None]:
    """Run a block in a network namespace; -1 is the caller's own. The block must not await."""
    if namespace < 0:
        yield
        return
    before = _open_own()
    try:
        linux.setns(namespace, linux.CLONE_NEWNET)
        try:
            yield
        finally:
            linux.setns(before, linux.CLONE_NEWNET)
    finally:
        os.close(before)
