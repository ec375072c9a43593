"""Namespaces that exist already (namespaces(7)). A container's first process may enter them instead of new ones."""

import os
from typing import NamedTuple

from tether.system import linux

# {kind: (file in /proc/PID/ns, flag of setns(2) and clone3(2))}, in the order of the members of Namespaces.
_KINDS = {
    "network": ("net", linux.CLONE_NEWNET),
    "pid": ("pid", linux.CLONE_NEWPID),
    "ipc": ("ipc", linux.CLONE_NEWIPC),
}


def open_namespace(pid: int, kind: str) -> int:
    """Open a namespace of a process: "network", "pid" or "ipc". OSError when the process has ended."""
    return os.open(f"/proc/{pid}/ns/{_KINDS[kind][0]}", os.O_RDONLY | os.O_CLOEXEC)


class Namespaces(NamedTuple):
    """Descriptors of the namespaces that a new process enters; -1 where its spec decides."""

    network: int = -1
    pid: int = -1
    ipc: int = -1

    def _given(self) -> list[tuple[int, int]]:
        return [(fd, flag) for fd, (_, flag) in zip(self, _KINDS.values(), strict=True) if fd >= 0]

    @property
    def flags(self) -> int:
        """The CLONE_NEW* flags of these namespaces."""
        return sum(flag for _, flag in self._given())

    def enter(self) -> None:
        """Enter them, with the caller's thread. Only later children of the caller are in the pid namespace."""
        for fd, flag in self._given():
            linux.setns(fd, flag)

    def close(self) -> None:
        for fd, _ in self._given():
            os.close(fd)
