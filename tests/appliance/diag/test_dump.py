"""The dump of tasks."""

import trio
import trio.testing

from appliance.diag import dump_tasks


async def _wait_for_something() -> None:
    await trio.sleep_forever()


async def test_every_task_is_there_below_its_parent_with_the_place_where_it_waits() -> None:
    async def parent() -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(_wait_for_something, name="the child")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parent, name="the parent")
        await trio.testing.wait_all_tasks_blocked()
        lines = dump_tasks().splitlines()
        nursery.cancel_scope.cancel()
    above, below = (next(line for line in lines if name in line) for name in ("the parent", "the child"))
    assert lines.index(below) == lines.index(above) + 1
    assert len(below) - len(below.lstrip()) == len(above) - len(above.lstrip()) + 2
    assert "test_dump.py" in below
    assert "_wait_for_something" in below
