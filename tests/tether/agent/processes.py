"""A table of processes with a fake launcher, a fake reaper and a directory in place of the kernel's cgroups."""

import json
import os
from collections.abc import Callable
from typing import Any

import trio

from protos.tether.v1 import process_pb2
from tether.agent.process_table import ProcessTable
from tether.launch.launcher import Launched, Stdio
from tether.launch.namespaces import Namespaces
from tether.launch.spec import Spec

SPEC = json.dumps({"process": {"args": ["true"]}, "ociVersion": "1.0.2"}).encode()
PID = 4242


class FakeReaper:
    """Holds what is to be called when a process ends."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[int], None]] = {}

    def watch(self, pid: int, on_exit: Callable[[int], None]) -> None:
        self.watched[pid] = on_exit


class FakeLauncher:
    """Stands in for `launch`: writes `output` to the child's stdout, or fails."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.output = b""
        self.launches = 0
        # How many other processes hold the writing end of stdout.
        self.neighbours = 0
        self._held: list[int] = []
        self.given = Namespaces()
        self.namespaces: list[str] = []

    async def __call__(self, spec: Spec, stdio: Stdio, group: int, *, namespaces: Namespaces, **_: Any) -> Launched:
        await trio.lowlevel.checkpoint()
        self.launches += 1
        if self.failure is not None:
            raise self.failure
        os.write(stdio.stdout, self.output)
        self._held += [os.dup(stdio.stdout) for _ in range(self.neighbours)]
        self.given = namespaces
        self.namespaces = [os.readlink(f"/proc/self/fd/{fd}") for fd in namespaces if fd >= 0]
        return Launched(PID, -1)

    def write(self, data: bytes) -> None:
        os.write(self._held[0], data)

    def close(self) -> None:
        for fd in self._held:
            os.close(fd)


def create_request(**fields: Any) -> process_pb2.CreateRequest:
    return process_pb2.CreateRequest(**{"id": "one", "spec": SPEC, **fields})


def make_table(nursery: trio.Nursery) -> tuple[ProcessTable, FakeReaper]:
    reaper = FakeReaper()
    return ProcessTable(nursery, reaper), reaper  # type: ignore[arg-type]
