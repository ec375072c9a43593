"""Memory that build clients share."""

import asyncio

import pytest

from appliance.buildkit.budget import ByteBudget, Reservations


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_reservations_are_granted_in_order() -> None:
    async def main() -> None:
        budget = Reservations(10)
        order = []

        async def take(name: str, size: int) -> None:
            await budget.take(size)
            order.append(name)

        await budget.take(8)
        tasks = [asyncio.create_task(take(name, size)) for name, size in (("large", 9), ("small", 1))]
        await _settle()
        # The small reservation would fit, but waits its turn: otherwise a large one could wait forever.
        assert order == []
        assert budget.contended
        budget.give(8)
        await _settle()
        assert order == ["large", "small"]
        assert not budget.contended
        for task in tasks:
            await task

    asyncio.run(main())


def test_room_that_comes_in_the_turn_of_a_cancellation_goes_to_the_next() -> None:
    """The end of a connection cancels calls that hold room, and calls that wait for it, in one turn of the loop."""

    async def main() -> None:
        budget = Reservations(10)
        await budget.take(10)
        cancelled = asyncio.create_task(budget.take(10))
        behind = asyncio.create_task(budget.take(4))
        await _settle()
        cancelled.cancel()
        budget.give(10)
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await asyncio.wait_for(behind, 1)
        assert (budget.room, budget.contended) == (6, False)

    asyncio.run(main())


def test_a_cancelled_reservation_costs_nothing() -> None:
    async def main() -> None:
        budget = Reservations(10)
        await budget.take(10)
        waiting = asyncio.create_task(budget.take(10))
        behind = asyncio.create_task(budget.take(1))
        await _settle()
        waiting.cancel()
        budget.give(1)
        await asyncio.wait_for(behind, 1)
        granted = asyncio.create_task(budget.take(9))
        await _settle()
        budget.give(10)
        # Granted, and cancelled before its task runs.
        granted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await granted
        await asyncio.wait_for(budget.take(10), 1)

    asyncio.run(main())


def test_the_connection_that_holds_the_most_is_ended_and_no_other() -> None:
    ended = []
    budget = ByteBudget(unreserved=100)
    ends = {name: lambda name=name: ended.append(name) for name in "abc"}
    budget.hold(ends["a"], 40)
    budget.hold(ends["b"], 50)
    budget.hold(ends["c"], 10)
    assert ended == []
    budget.hold(ends["c"], 5)
    assert ended == ["b"]
    # While b ends, its bytes do not count against the others.
    budget.hold(ends["a"], 20)
    assert ended == ["b"]
    budget.hold(ends["b"], -50)
    budget.hold(ends["a"], 20)
    assert ended == ["b"]
    budget.hold(ends["a"], 10)
    assert ended == ["b", "a"]
