"""Limits how many machines start at the same time. Each start keeps one core busy: more starts would slow each other down."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from appliance.diag import mark


class Admission:
    """Starts are admitted in the order of their requests. A cancelled start leaves the queue."""

    def __init__(self, most: int) -> None:
        self._turns = trio.CapacityLimiter(most)

    @property
    def queued(self) -> int:
        return self._turns.statistics().tasks_waiting

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until a start is admitted; it counts until the block ends."""
        holder = object()
        try:
            self._turns.acquire_on_behalf_of_nowait(holder)
        except trio.WouldBlock:
            await self._turns.acquire_on_behalf_of(holder)
            mark("admitted")
        try:
            yield
        finally:
            self._turns.release_on_behalf_of(holder)
