"""`make bench` and `python -m tests.bench sizes`: what the size of a VM costs. The sizes are the default, and that of vch 0.1.

Wall times depend on what else the host does. The CPU time of QEMU does not, so it is shown beside them.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tests.live.daemon import Daemon

SIZES = {"default": (), "256 MiB, 1 CPU": ("--vm-memory", "256", "--vm-cpus", "1")}
# How a start gets its VM, with the flags of vchd and the number of starts.
WAYS = (("pool", (), 7), ("template", ("--vm-pool", "0"), 7), ("boot", ("--vm-template", "off"), 3))


def pid_of(daemon: Daemon, pattern: str) -> int:
    """The pid of the QEMU of the machine whose id matches the pattern."""
    (state,) = (daemon.root / "exec/machines").glob(f"{pattern}/machine.json")
    return int(json.loads(state.read_text())["pid"])


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def pss(pid: int) -> float:
    """The memory of a process in MiB: its own memory, and its part of shared memory."""
    status = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Pss:")) / 1024


def _start(daemon: Daemon, *, pooled: bool) -> tuple[str, float, float]:
    """Start an idle container: its id, the wall time and the CPU time of its QEMU in seconds."""
    spent = 0.0
    if pooled:
        daemon.wait_pool()
        spent = cpu_seconds(pid_of(daemon, "blank*"))
    started = time.monotonic()
    container = daemon.must("run", "-d", "busybox", "sleep", "1000").strip()
    wall = time.monotonic() - started
    return container, wall, cpu_seconds(pid_of(daemon, container)) - spent


def _idle(daemon: Daemon, containers: list[str]) -> tuple[float, float]:
    """The median PSS in MiB, and the CPU usage of the first container's QEMU in percent."""
    time.sleep(2)
    pids = [pid_of(daemon, container) for container in containers]
    before = cpu_seconds(pids[0])
    time.sleep(10)
    return statistics.median(map(pss, pids)), (cpu_seconds(pids[0]) - before) * 10


def compare_sizes(root: Path, made: Callable[[Path], Path]) -> None:
    """Print a line for each way to start and each size. The sizes take turns."""
    daemons = {}
    try:
        for number, (title, flags) in enumerate(SIZES.items()):
            daemons[title] = daemon = Daemon(made(root / f"size{number}"))
            daemon.flags = list(flags)
            daemon.start()
            daemon.load_busybox()
            daemon.wait_pool()
            daemon.stop()
        for way, flags, rounds in WAYS:
            found: dict[str, list[tuple[str, float, float]]] = {title: [] for title in daemons}
            for daemon in daemons.values():
                daemon.start(*flags)
            for _ in range(rounds):
                for title, daemon in daemons.items():
                    found[title].append(_start(daemon, pooled=way == "pool"))
            for title, daemon in daemons.items():
                starts = found[title]
                memory, usage = _idle(daemon, [container for container, _, _ in starts])
                wall, cpu = (statistics.median(values) for values in list(zip(*starts, strict=True))[1:])
                print(
                    f"{f'start from the {way}, {title}':38} {wall * 1000:.0f} ms, CPU of QEMU {cpu:.2f} s; "
                    f"then PSS {memory:.0f} MiB, CPU {usage:.2f} %",
                    flush=True,
                )
                daemon.must("rm", "-f", *(container for container, _, _ in starts))
                daemon.stop()
    finally:
        for daemon in daemons.values():
            daemon.close()
