"""The timeline of a start."""

import time

import pytest
import trio

from appliance.diag import Trace, mark


async def test_marks_belong_to_the_trace_that_the_task_follows() -> None:
    first, second = Trace(), Trace()

    async def child() -> None:
        mark("in a child")

    async def work(trace: Trace, name: str) -> None:
        trace.follow()
        mark(f"{name} began")
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        mark(f"{name} ended")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, first, "first")
        nursery.start_soon(work, second, "second")
    mark("of no start")
    for trace, name in ((first, "first"), (second, "second")):
        steps = [line.split(None, 2)[2] for line in trace.text().splitlines()]
        assert steps == [f"{name} began", "in a child", f"{name} ended"]


def test_a_line_has_the_time_since_the_beginning_and_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    trace = Trace()
    trace.mark("one", 100.25)
    trace.mark("two", 100.75)
    assert trace.text() == "    250.0    +250.0  one\n    750.0    +500.0  two\n"


def test_a_trace_is_bounded() -> None:
    trace = Trace()
    for number in range(1000):
        trace.mark(str(number))
    assert len(trace.text().splitlines()) == 200
