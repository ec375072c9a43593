"""Admission: which starts may run now, and which wait."""

import trio
import trio.testing

from appliance.diag import Trace
from appliance.engine.machines.admission import Admission


async def test_so_many_at_once_in_the_order_of_their_coming() -> None:
    admission = Admission(2)
    order: list[int] = []
    gates = [trio.Event() for _ in range(5)]

    async def one(number: int) -> None:
        async with admission.turn():
            order.append(number)
            await gates[number].wait()

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(one, number)
            await trio.testing.wait_all_tasks_blocked()
        assert order == [0, 1]
        assert admission.queued == 3
        for number in range(5):
            gates[number].set()
            await trio.testing.wait_all_tasks_blocked()
            assert order == list(range(min(5, number + 3)))
    assert admission.queued == 0


async def test_a_cancelled_start_leaves_the_queue() -> None:
    admission = Admission(1)
    entered = trio.Event()
    async with admission.turn():
        scope = trio.CancelScope()

        async def impatient() -> None:
            with scope:
                async with admission.turn():
                    raise AssertionError("its turn never came")

        async def patient() -> None:
            async with admission.turn():
                entered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(patient)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert admission.queued == 1
            nursery.cancel_scope.cancel()
    assert admission.queued == 0
    async with admission.turn():
        pass


async def test_a_wait_is_seen_in_the_trace() -> None:
    admission = Admission(1)
    trace = Trace()

    async def second() -> None:
        trace.follow()
        async with admission.turn():
            pass

    async with trio.open_nursery() as nursery:
        async with admission.turn():
            nursery.start_soon(second)
            await trio.testing.wait_all_tasks_blocked()
    assert "admitted" in trace.text()
