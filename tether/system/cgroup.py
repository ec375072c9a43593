"""cgroup v2 (Documentation/admin-guide/cgroup-v2.rst): one group per container, limits from an OCI spec's resources."""

import os
from pathlib import Path
from typing import Any

ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpu", "memory", "pids", "io", "cpuset")


def enable_controllers() -> None:
    """Let children of the root group have the controllers that this kernel has."""
    available = (ROOT / "cgroup.controllers").read_text().split()
    for name in _CONTROLLERS:
        if name in available:
            (ROOT / "cgroup.subtree_control").write_text(f"+{name}")


def limits_of(resources: dict[str, Any]) -> dict[str, str]:
    """OCI linux.resources (runtime-spec 1.0.2, cgroup v1 units) as {file: value} of cgroup v2."""
    files: dict[str, str] = {}
    memory = resources.get("memory") or {}
    limit = memory.get("limit")
    if limit is not None:
        files["memory.max"] = "max" if limit <= 0 else str(limit)
    if memory.get("reservation"):
        files["memory.low"] = str(memory["reservation"])
    swap = memory.get("swap")
    if swap is not None and limit is not None:
        # OCI counts memory and swap together, cgroup v2 swap alone.
        files["memory.swap.max"] = "max" if swap < 0 else str(max(0, swap - limit))
    cpu = resources.get("cpu") or {}
    if cpu.get("shares"):
        shares = min(max(int(cpu["shares"]), 2), 262144)
        files["cpu.weight"] = str(1 + (shares - 2) * 9999 // 262142)
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        files["cpu.max"] = f"{quota if quota and quota > 0 else 'max'} {period or 100000}"
    for key in ("cpus", "mems"):
        if cpu.get(key):
            files[f"cpuset.{key}"] = str(cpu[key])
    pids = (resources.get("pids") or {}).get("limit")
    if pids is not None:
        files["pids.max"] = "max" if pids <= 0 else str(pids)
    return files


class Cgroup:
    """One group under the root."""

    def __init__(self, name: str) -> None:
        self.path = ROOT / name

    def create(self, resources: dict[str, Any]) -> None:
        self.path.mkdir(exist_ok=True)
        self.update(resources)

    def update(self, resources: dict[str, Any]) -> None:
        for name, value in limits_of(resources).items():
            (self.path / name).write_text(value)

    def open(self) -> int:
        """A descriptor of the directory, for clone3."""
        return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def kill(self) -> None:
        """SIGKILL to every process in the group (Linux 5.14)."""
        (self.path / "cgroup.kill").write_text("1")

    def freeze(self, frozen: bool) -> None:
        (self.path / "cgroup.freeze").write_text("1" if frozen else "0")

    def is_frozen(self) -> bool:
        return "frozen 1" in (self.path / "cgroup.events").read_text()

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
        try:
            self.path.rmdir()
        except FileNotFoundError:
            pass
