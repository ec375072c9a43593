"""What the guest keeps of the output of an earlier daemon's exec."""

from collections.abc import AsyncGenerator
from typing import Any

import trio
import trio.testing

from appliance.engine.containers.exec_takeover import ExecTakeover
from appliance.guest import ExitStatus, Output, OutputRecord


class _Session:
    """A session whose process prints `sizes` from `offset` on, one record each, and ends if there is a `status`."""

    def __init__(self, sizes: list[int], status: ExitStatus | None) -> None:
        self._sizes = sizes
        self._status = status
        self.acknowledged = 0

    async def follow(self, process_id: str, offset: int) -> AsyncGenerator[Output, None]:
        for size in self._sizes:
            await trio.lowlevel.checkpoint()
            yield Output([OutputRecord(1, 0, offset, bytes(size))])
            offset += size
        if self._status is None:
            await trio.sleep_forever()
        yield Output([], self._status)

    async def acknowledge(self, process_id: str, offset: int) -> None:
        await trio.lowlevel.checkpoint()
        self.acknowledged = offset


async def test_the_last_part_is_kept() -> None:
    session: Any = _Session([100 << 10] * 10, ExitStatus(3))
    takeover = ExecTakeover(7)
    assert await takeover.keep(session, "e") == ExitStatus(3)
    assert session.acknowledged == takeover.offset == 7 + 5 * (100 << 10)


async def test_many_small_records_do_not_fill_the_guest() -> None:
    session: Any = _Session([1] * 6000, ExitStatus())
    takeover = ExecTakeover(0)
    await takeover.keep(session, "e")
    # The guest counts 129 bytes for each record, and blocks the process at 1 MiB.
    assert takeover.offset == 6000 - (512 << 10) // 129


async def test_a_client_takes_the_output() -> None:
    session: Any = _Session([10], None)
    takeover = ExecTakeover(0)
    found: list[ExitStatus | None] = []

    async def keep() -> None:
        found.append(await takeover.keep(session, "e"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        await trio.testing.wait_all_tasks_blocked()
        assert (found, takeover.claimed) == ([], False)
        takeover.claim()
    assert (found, takeover.claimed, takeover.offset) == ([None], True, 0)
    await takeover.wait_claimed(1)
