"""A change is made once, even if the answer is lost."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from appliance.hypervisor.vsphere.changes import Changes
from appliance.hypervisor.vsphere.collector import Collector
from appliance.hypervisor.vsphere.faults import AnswerLost, Busy, Gone, WrongState


class _Collector:
    """Fails with the given errors, one for each call, and then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def carry_out(self, _what: str, method: Callable[..., Any]) -> None:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        method()


async def _make(collector: _Collector, done: bool = False) -> list[str]:
    made: list[str] = []

    async def is_done() -> bool:
        await trio.lowlevel.checkpoint()
        return done or bool(made)

    await Changes(cast(Collector, collector)).make("power on", lambda: made.append("on"), is_done)
    return made


async def test_a_change_that_succeeds() -> None:
    assert await _make(_Collector()) == ["on"]


async def test_a_lost_answer_of_a_change_that_was_made() -> None:
    collector = _Collector(AnswerLost("lost"))
    assert await _make(collector, done=True) == []
    assert collector.calls == 1


async def test_a_lost_answer_of_a_change_that_was_not_made(autojump_clock: MockClock) -> None:
    collector = _Collector(AnswerLost("lost"), WrongState("off"), Busy("busy"))
    assert await _make(collector) == ["on"]
    assert collector.calls == 4


async def test_a_refusal_is_believed_the_third_time(autojump_clock: MockClock) -> None:
    collector = _Collector(*[WrongState("suspended")] * 5)
    with pytest.raises(WrongState):
        await _make(collector)
    assert collector.calls == 3


async def test_other_faults_are_raised_at_once() -> None:
    collector = _Collector(Gone("gone"))
    with pytest.raises(Gone):
        await _make(collector)
    assert collector.calls == 1


async def test_an_object_that_stays_busy(autojump_clock: MockClock) -> None:
    before = trio.current_time()
    with pytest.raises(Busy):
        await _make(_Collector(*[Busy("busy")] * 20))
    assert 5 < trio.current_time() - before < 20
