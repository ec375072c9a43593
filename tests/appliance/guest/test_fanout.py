"""The output of a process goes to all attached clients."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from appliance.guest import Attachment, Fanout

BOTH, ERRORS = frozenset((1, 2)), frozenset((2,))


async def _all(attachment: Attachment) -> list[tuple[int, bytes]]:
    return [item async for item in attachment.output()]


async def test_each_client_gets_the_streams_that_it_wants() -> None:
    fanout = Fanout()
    both, errors, nothing = fanout.attach(BOTH), fanout.attach(ERRORS), fanout.attach(frozenset())
    await fanout.publish(1, b"out")
    await fanout.publish(2, b"err")
    late = fanout.attach(BOTH)
    await fanout.publish(1, b"more")
    fanout.end_run()
    # What is queued at the end still comes.
    assert await _all(both) == [(1, b"out"), (2, b"err"), (1, b"more")]
    assert await _all(errors) == [(2, b"err")]
    assert await _all(nothing) == []
    assert await _all(late) == [(1, b"more")]


async def test_a_client_of_the_last_run_gets_nothing_of_the_next() -> None:
    fanout = Fanout()
    first = fanout.attach(BOTH)
    fanout.end_run()
    second = fanout.attach(BOTH)
    await fanout.publish(1, b"x")
    fanout.end_run()
    assert (await _all(first), await _all(second)) == ([], [(1, b"x")])


async def test_the_slowest_client_blocks_the_process(nursery: trio.Nursery) -> None:
    fanout = Fanout()
    slow, quick = fanout.attach(BOTH), fanout.attach(BOTH)
    published = 0

    async def publish() -> None:
        nonlocal published
        for number in range(40):
            await fanout.publish(1, b"%d" % number)
            published += 1
        fanout.end_run()

    found: list[tuple[int, bytes]] = []

    async def read() -> None:
        found.extend(await _all(quick))

    nursery.start_soon(publish)
    nursery.start_soon(read)
    await wait_all_tasks_blocked()
    assert published == 16
    assert await _all(slow) == [(1, b"%d" % number) for number in range(40)]
    await wait_all_tasks_blocked()
    assert (published, len(found)) == (40, 40)


async def test_a_client_that_leaves_does_not_block_the_process(nursery: trio.Nursery) -> None:
    fanout = Fanout()
    gone, stays = fanout.attach(BOTH), fanout.attach(BOTH)

    async def publish() -> None:
        for _ in range(40):
            await fanout.publish(1, b"x")
        fanout.end_run()

    nursery.start_soon(publish)
    await wait_all_tasks_blocked()
    gone.close()
    assert len(await _all(stays)) == 40
    # Closing twice, and after the run, changes nothing.
    gone.close()
    stays.close()


async def test_a_client_closes_its_own_attachment() -> None:
    fanout = Fanout()
    attachment = fanout.attach(BOTH)
    attachment.close()
    for _ in range(40):
        await fanout.publish(1, b"x")
    with pytest.raises(trio.ClosedResourceError):
        await _all(attachment)
