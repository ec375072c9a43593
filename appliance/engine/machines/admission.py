"""How many machines may be on their way up at once. Each needs a core for itself: more of them make every one slower."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from appliance.diag import mark


class Admission:
    """First come, first served; whoever is cancelled leaves the queue."""

    def __init__(self, most: int) -> None:
        self._turns = trio.CapacityLimiter(most)

    @property
    def queued(self) -> int:
        return self._turns.statistics().tasks_waiting

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn, and have it for as long as the block lasts."""
        holder = object()
        try:
            self._turns.acquire_on_behalf_of_nowait(holder)
        except trio.WouldBlock:
            await self._turns.acquire_on_behalf_of(holder)
            mark("its turn came")
        try:
            yield
        finally:
            self._turns.release_on_behalf_of(holder)
