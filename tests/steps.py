"""Oracles for floods: the CPU time of each step of each trio task, and the peak memory of a process.

Both are independent of how busy the machine is: never assert wall-clock time about a flood.

    with cpu_of_steps() as steps:
        await flood()
    assert steps.longest < 0.05, steps

    child = in_fresh_process(scenario, "argument")  # a function of a module, with strings
    assert child.grown < 20 << 20, child
"""

import contextlib
import gc
import importlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import trio

ROOT = Path(__file__).resolve().parent.parent


@dataclass(eq=False)
class Steps(trio.abc.Instrument):
    """What `cpu_of_steps` found. Times are seconds of CPU time of the event loop's thread, without the garbage collector."""

    longest: float = 0.0
    # The task that made the longest step, and the await expressions at which that step ended, outermost first.
    task: str = ""
    where: list[str] = field(default_factory=list)
    count: int = 0
    _thread: int = field(default_factory=threading.get_ident, repr=False)
    _started: float | None = field(default=None, repr=False)
    _collecting: float = field(default=0.0, repr=False)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._started = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._end(task, waits=True)

    def _end(self, task: trio.lowlevel.Task, *, waits: bool) -> None:
        if self._started is None:
            return
        taken = time.thread_time() - self._started
        self._started = None
        self.count += 1
        if taken > self.longest:
            self.longest, self.task = taken, task.name
            frames = list(task.iter_await_frames()) if waits else []
            self.where = [f"{frame.f_code.co_filename}:{line} {frame.f_code.co_qualname}" for frame, line in frames]

    def collecting(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        """A callback of `gc`: a full collection takes as long as the test process is large, so it is not counted."""
        if threading.get_ident() != self._thread or self._started is None:
            return
        if phase == "start":
            self._collecting = time.thread_time()
        else:
            self._started += time.thread_time() - self._collecting


@contextlib.contextmanager
def cpu_of_steps() -> Iterator[Steps]:
    """Measure all tasks' steps of the current trio run, the caller's own steps inside the block, too."""
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    gc.callbacks.append(steps.collecting)
    task = trio.lowlevel.current_task()
    steps.before_task_step(task)
    try:
        yield steps
    finally:
        steps._end(task, waits=False)
        gc.callbacks.remove(steps.collecting)
        trio.lowlevel.remove_instrument(steps)


def peak_rss(pid: int | None = None) -> int:
    """The largest resident memory of a living process so far, in bytes (VmHWM of proc_pid_status(5)). Default: this process."""
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has taken so far with all its threads, to a nanosecond (/proc/PID/schedstat of each)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # The thread has ended.
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


@dataclass(frozen=True)
class FreshRun:
    """What a scenario in a fresh interpreter did: its result, and how much its peak memory grew, in bytes."""

    result: Any
    grown: int
    peak: int


def in_fresh_process(function: Callable[..., Any], *arguments: str, seconds: float = 60) -> FreshRun:
    """Call a module's function with strings in a new interpreter; the function returns what JSON can carry.

    `grown` leaves out what the interpreter and the function's module take before the call. Unlike in the test process,
    the peak of an earlier test does not hide that of this one.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.steps", function.__module__, function.__name__, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return FreshRun(**json.loads(done.stdout.splitlines()[-1]))


def _child(module: str, name: str, *arguments: str) -> None:
    function = getattr(importlib.import_module(module), name)
    before = peak_rss()
    result = function(*arguments)
    peak = peak_rss()
    print("\n" + json.dumps({"result": result, "grown": peak - before, "peak": peak}))


if __name__ == "__main__":
    _child(*sys.argv[1:])
