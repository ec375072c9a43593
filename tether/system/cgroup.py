"""cgroup v2 (Documentation/admin-guide/cgroup-v2.rst): one group for each container."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def enable_controllers() -> None:
    """Let children of the root group have all controllers of this kernel: a container may be a host of containers itself."""
    available = (ROOT / "cgroup.controllers").read_text().split()
    (ROOT / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in available))


def open_cgroup_of(pid: int) -> int:
    """A descriptor of the cgroup in which a process is. OSError when there is none."""
    for line in (PROC / str(pid) / "cgroup").read_text().splitlines():
        if line.startswith("0::/"):
            return _open(ROOT / line[4:])
    raise FileNotFoundError(errno.ENOENT, "no cgroup of version 2", str(pid))


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class Cgroup:
    """One group under the root."""

    def __init__(self, name: str) -> None:
        self.path = ROOT / name

    def create(self) -> None:
        self.path.mkdir(exist_ok=True)

    def write(self, files: Mapping[str, str]) -> None:
        """Write the group's interface files, {"memory.max": "1048576"}, in this order. OSError when the kernel refuses a value."""
        for name, value in files.items():
            (self.path / name).write_text(value)

    def open(self) -> int:
        """A descriptor of the directory, for clone3."""
        return _open(self.path)

    def kill(self) -> None:
        """SIGKILL to every process in the group (Linux 5.14)."""
        (self.path / "cgroup.kill").write_text("1")

    def freeze(self, frozen: bool) -> None:
        (self.path / "cgroup.freeze").write_text("1" if frozen else "0")

    def is_frozen(self) -> bool:
        return "frozen 1" in (self.path / "cgroup.events").read_text()

    def is_populated(self) -> bool:
        """Whether a process is in the group, or in one below."""
        try:
            return "populated 1" in (self.path / "cgroup.events").read_text()
        except FileNotFoundError:
            return False

    def pids(self) -> list[int]:
        return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]

    def all_pids(self) -> list[int]:
        """Also those in groups that the container made below."""
        found: list[int] = []
        for file in self.path.rglob("cgroup.procs"):
            try:
                found += map(int, file.read_text().split())
            except OSError:
                pass  # the group is gone, or it is a threaded one
        return found

    def flat(self, name: str) -> dict[str, int]:
        """A flat keyed file such as cpu.stat; {} when the controller is off."""
        try:
            pairs = (line.split() for line in (self.path / name).read_text().splitlines())
            return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
        except FileNotFoundError:
            return {}

    def number(self, name: str) -> int:
        """A single value; 0 for "max" or when the controller is off."""
        try:
            text = (self.path / name).read_text().strip()
        except FileNotFoundError:
            return 0
        return int(text) if text.isdigit() else 0

    def oom_kills(self) -> int:
        return self.flat("memory.events").get("oom_kill", 0)

    def remove(self) -> None:
        """Remove the group and those that the container made below."""
        below = sorted((path for path in self.path.rglob("*") if path.is_dir()), reverse=True)
        for path in (*below, self.path):
            try:
                path.rmdir()
            except FileNotFoundError:
                pass
