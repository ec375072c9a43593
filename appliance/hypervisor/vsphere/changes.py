"""Changes that are made once, even when the answer to the call is lost: after a lost answer the caller looks for the result."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from appliance.errors import HypervisorError
from appliance.hypervisor.vsphere.collector import Collector
from appliance.hypervisor.vsphere.faults import AnswerLost, Busy, WrongState

log = logging.getLogger(__name__)

T = TypeVar("T")

# Attempts at a change whose answer is lost or that another operation blocks, and the pauses between them.
_TRIES = 8
_PAUSE, _LONGEST_PAUSE = 0.1, 3.0


class Changes:
    """Makes changes through a Collector."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector

    async def once(
        self,
        act: Callable[[], Awaitable[T]],
        look: Callable[[], Awaitable[T | None]],
        refusal: type[HypervisorError],
        most_refusals: int,
    ) -> T:
        """Return what `act` returns, or what `look` finds when it is unknown whether `act` was done. Other faults are raised.

        `refusal` is the fault that also follows when the change was done already. It is raised after `most_refusals` attempts.
        """
        pause = _PAUSE
        for tried in range(1, _TRIES + 1):
            try:
                return await act()
            except (AnswerLost, Busy, refusal) as error:
                found = await look()
                if found is not None:
                    return found
                if tried == _TRIES or (isinstance(error, refusal) and tried >= most_refusals):
                    raise
                log.info("%s; trying again", error)
            await trio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)
        raise AssertionError("unreachable")

    async def make(self, what: str, method: Callable[..., Any], done: Callable[[], Awaitable[bool]]) -> None:
        """Make a change that is a task, unless it is `done`. WrongState when the object is not in the state for it; other faults."""

        async def act() -> bool:
            await self.collector.carry_out(what, method)
            return True

        async def look() -> bool | None:
            return await done() or None

        await self.once(act, look, WrongState, 3)
