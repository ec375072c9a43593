"""Machines that wait: restored from the default template, rehearsed, nobody's yet. A start takes one and puts its disks in."""

import logging
import os
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

import trio

from appliance.errors import leaves

log = logging.getLogger(__name__)

POOLED = "pool"
# After a start others often follow: what they need of the cores comes first.
_QUIET_SECONDS = 0.5
_LOOK_AGAIN_SECONDS = 5.0
# Below this much available memory on the host nothing is kept waiting, MiB.
_SCARCE_MIB = 1024
_NICE = 10

Pooled = TypeVar("Pooled")


def default_size() -> int:
    """One where the host has memory to spare."""
    return 1 if _memory("MemTotal") >= 4096 else 0


def _memory(field: str) -> int:
    """A line of /proc/meminfo, MiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) // 1024
    return 0


def lower_priority(pid: int, lowered: bool) -> None:
    """Let others go first, or not any more (which only root may ask for)."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, _NICE if lowered else 0)


def new_id() -> str:
    return POOLED + secrets.token_hex(8)


class Pool(Generic[Pooled]):
    """Keeps `size` machines ready. `make` gives one, None when there is no template yet; `end` destroys one."""

    def __init__(
        self, size: int, make: Callable[[], Awaitable[Pooled | None]], end: Callable[[Pooled], Awaitable[None]]
    ) -> None:
        self._size = size
        self._make = make
        self._end = end
        self._ready: deque[Pooled] = deque()
        self._starting = 0
        self._last_start = -_QUIET_SECONDS
        self._wake = trio.Event()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """A machine is being started: nothing is made for the pool meanwhile."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1
            self._last_start = trio.current_time()
            self._wake.set()

    @property
    def waiting(self) -> int:
        """How many are ready."""
        return len(self._ready)

    def take(self) -> Pooled | None:
        return self._ready.popleft() if self._ready else None

    async def run(self) -> None:
        """Fill the pool, until cancelled; then end what is in it."""
        try:
            while True:
                await self._step()
        finally:
            with trio.CancelScope(shield=True):
                while self._ready:
                    await self._end(self._ready.popleft())

    async def _step(self) -> None:
        if _memory("MemAvailable") < _SCARCE_MIB:
            while self._ready:
                await self._end(self._ready.pop())
        elif len(self._ready) < self._size and not self._starting:
            quiet = self._last_start + _QUIET_SECONDS - trio.current_time()
            if quiet > 0:
                await trio.sleep(quiet)
                return
            try:
                machine = await self._make()
            except Exception as error:
                log.warning("no machine for the pool: %s", "; ".join(str(one) or repr(one) for one in leaves(error)))
                machine = None
            if machine is not None:
                self._ready.append(machine)
                return
        self._wake = trio.Event()
        with trio.move_on_after(_LOOK_AGAIN_SECONDS):
            await self._wake.wait()
