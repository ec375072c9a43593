"""`python -m tests.bench_files [FLAGS OF VCHD]`: small files on the root and on a volume, beside dockerd and beside a plain guest.

Each step works on 1000 files of one directory. What a busy machine does to the clock it does not do to CPU time, so each step counts
the CPU time that the host spends: of the container's processes for dockerd; of QEMU and virtiofsd for vch. `loop` makes no system
call: it shows what emulation costs without KVM. The plain guest is QEMU with the same kernel and nothing of ours but the image's
busybox: what it costs more than dockerd is outside of vch. Without root or without docker.io dockerd is left out.
"""

import contextlib
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import Target, other_target
from tests.live.daemon import Daemon
from tests.live.plain_guest import plain_guest

ROUNDS = int(os.environ.get("VCH_BENCH_ROUNDS", "3"))
STEPS = {
    "create": "i=0; while [ $i -lt 1000 ]; do echo x > f$i; i=$((i+1)); done",
    "list": "ls -l >/dev/null",
    "read": "cat f* >/dev/null",
    "stat": "i=0; while [ $i -lt 1000 ]; do [ -s f$i ]; i=$((i+1)); done",
    "remove": "cd ..; rm -r small; mkdir small; cd small",
    "loop": "i=0; while [ $i -lt 1000 ]; do [ -n f$i ]; i=$((i+1)); done",
}


@dataclass(frozen=True)
class Cost:
    """Milliseconds of one step: of CPU on the host, and on the clock."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Shell:
    """A shell in a directory. `run` returns when a script has ended; `cpu` is what the host has spent so far, in ms."""

    run: Callable[[str], None]
    cpu: Callable[[], float]


def cpu_of(pids: list[int]) -> float:
    """The CPU milliseconds of all threads of processes."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e6


def cgroup_cpu(identity: str) -> float:
    """The CPU milliseconds of a container of dockerd, with its processes that have ended. Of cgroup version 1 or 2."""
    first = Path(f"/sys/fs/cgroup/cpuacct/docker/{identity}/cpuacct.usage")
    if first.exists():
        return int(first.read_text()) / 1e6
    (second,) = Path("/sys/fs/cgroup").glob(f"**/*{identity}*/cpu.stat")
    return int(second.read_text().split()[1]) / 1e3


def pids_of(daemon: Daemon, identity: str) -> list[int]:
    """The QEMU of a container's machine, and its virtiofsd."""
    folder = daemon.root / "exec/machines" / identity
    found = [json.loads((folder / "machine.json").read_text())["pid"]]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"source={folder}".encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


@contextlib.contextmanager
def shell_in(target: Target, daemon: Daemon | None, *options: str) -> Iterator[Shell]:
    """A shell in a new container of vchd, or of dockerd if there is no `daemon`."""
    identity = target.docker("run", "-d", *options, "busybox", "sleep", "100000").decode().strip()
    command = ["docker", "-H", target.host, "exec", "-i", identity, "sh"]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            given, said = process.stdin, process.stdout
            assert given is not None
            assert said is not None

            def run(script: str) -> None:
                given.write(f"{script}; echo done\n".encode())
                given.flush()
                assert said.readline() == b"done\n"

            run("true")
            pids = pids_of(daemon, identity) if daemon is not None else []
            yield Shell(run, lambda: cpu_of(pids) if pids else cgroup_cpu(identity))
            given.close()
    finally:
        target.docker("rm", "-f", identity)


def measure(shell: Shell, folder: str) -> dict[str, Cost]:
    """The median cost of each step. The first round is not counted: an emulator translates code in it."""
    shell.run(f"mkdir -p {folder}/small; cd {folder}/small")
    rounds = []
    for _ in range(ROUNDS + 1):
        costs = {}
        for name, script in STEPS.items():
            cpu, wall = shell.cpu(), time.monotonic()
            shell.run(script)
            costs[name] = Cost(shell.cpu() - cpu, (time.monotonic() - wall) * 1000)
        rounds.append(costs)
    return {
        name: Cost(
            statistics.median(one[name].cpu for one in rounds[1:]),
            statistics.median(one[name].wall for one in rounds[1:]),
        )
        for name in STEPS
    }


def show(title: str, results: dict[str, dict[str, Cost]]) -> None:
    """Print a line for each step: ms of CPU, of time in brackets, and how many times dockerd's CPU that is."""
    for step in STEPS:
        base = results["dockerd"][step].cpu if "dockerd" in results else 0
        cells = (
            f"{name} {costs[step].cpu:6.0f} ({costs[step].wall:6.0f})"
            + (f" x{costs[step].cpu / base:<5.1f}" if base else "")
            for name, costs in results.items()
        )
        print(f"{title:7} {step:7} {'  '.join(cells)}", flush=True)


def main() -> None:
    root = Path(tempfile.mkdtemp(prefix="vch-bench-", dir="/tmp"))
    root.chmod(0o711)
    daemon = Daemon(root)
    daemon.start(*sys.argv[1:])
    try:
        daemon.load_busybox()
        ours = Target("vchd", daemon.host)
        with other_target(root) as other:
            for title, folder in (("root", "/"), ("volume", "/v")):
                options = ["-v", "bench-files:/v"] if title == "volume" else []
                results = {}
                if other is not None:
                    with shell_in(other, None, *options) as shell:
                        results["dockerd"] = measure(shell, folder)
                with plain_guest(root, shared=title == "volume") as (run, pids):
                    results["plain guest"] = measure(Shell(run, functools.partial(cpu_of, pids)), "/mnt")
                with shell_in(ours, daemon, *options) as shell:
                    results["vch"] = measure(shell, folder)
                show(title, results)
    finally:
        daemon.close()
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
