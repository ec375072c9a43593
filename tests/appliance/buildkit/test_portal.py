"""Functions of trio, called from the build loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
import trio.testing

from appliance.buildkit.portal import TrioPortal
from appliance.errors import Conflict
from tether.rpc.bridge import CallAbandoned, LoopThread


async def test_results_and_errors_come_back() -> None:
    async def double() -> int:
        await trio.lowlevel.checkpoint()
        return 42

    async def fail() -> int:
        raise Conflict("no")

    async with LoopThread.open() as loop, TrioPortal.open() as portal:
        assert await loop.run(lambda: portal.run(double)) == 42
        with pytest.raises(Conflict):
            await loop.run(lambda: portal.run(fail))


async def test_a_cancelled_caller_cancels_the_function_and_waits_for_its_end() -> None:
    steps = []

    async def slow() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.02)
                steps.append("ended")

    async def call(portal: TrioPortal) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(portal.run(slow), 0.05)
        steps.append("returned")

    async with LoopThread.open() as loop, TrioPortal.open() as portal:
        await loop.run(lambda: call(portal))
    assert steps == ["ended", "returned"]


async def test_a_context_manager_is_entered_and_left_on_trio() -> None:
    steps = []

    @asynccontextmanager
    async def lease() -> AsyncIterator[str]:
        await trio.lowlevel.checkpoint()
        steps.append("enter")
        try:
            yield "lease"
        finally:
            await trio.lowlevel.checkpoint()
            steps.append("leave")

    async def use(portal: TrioPortal, fails: bool) -> None:
        async with portal.enter(lease) as value:
            steps.append(value)
            if fails:
                raise Conflict("in the block")

    async with LoopThread.open() as loop, TrioPortal.open() as portal:
        await loop.run(lambda: use(portal, False))
        with pytest.raises(Conflict):
            await loop.run(lambda: use(portal, True))
    assert steps == ["enter", "lease", "leave"] * 2


async def test_a_context_manager_that_cannot_be_entered_raises_in_the_block_s_place() -> None:
    @asynccontextmanager
    async def lease() -> AsyncIterator[None]:
        raise Conflict("no machine")
        yield

    async def use(portal: TrioPortal) -> None:
        async with portal.enter(lease):
            pytest.fail("entered")

    async with LoopThread.open() as loop, TrioPortal.open() as portal:
        with pytest.raises(Conflict, match="no machine"):
            await loop.run(lambda: use(portal))


async def test_a_cancelled_wait_for_a_context_manager_cancels_its_entry() -> None:
    steps = []

    @asynccontextmanager
    async def lease() -> AsyncIterator[None]:
        try:
            await trio.sleep_forever()
        finally:
            steps.append("cancelled")
        yield

    async def use(portal: TrioPortal) -> None:
        async with portal.enter(lease):
            pytest.fail("entered")

    async def call(portal: TrioPortal) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(use(portal), 0.05)

    async with LoopThread.open() as loop, TrioPortal.open() as portal:
        await loop.run(lambda: call(portal))
    assert steps == ["cancelled"]


async def test_a_closed_portal_cancels_what_it_runs() -> None:
    async with LoopThread.open() as loop:
        async with trio.open_nursery() as nursery:
            closing = trio.Event()

            async def call() -> None:
                async with TrioPortal.open() as portal:
                    nursery.start_soon(wait, portal)
                    await closing.wait()

            async def wait(portal: TrioPortal) -> None:
                with trio.fail_after(5), pytest.raises(CallAbandoned):
                    await loop.run(lambda: portal.run(trio.sleep_forever))

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.05)
            closing.set()
