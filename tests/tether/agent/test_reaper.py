"""The reaper reports watched children. In a process of its own, since it waits for all children."""

import os
import subprocess

import trio
import trio.testing

from tests.tether.isolated import run_isolated
from tether.agent.reaper import Reaper


def _watch() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            reaper = Reaper()
            nursery.start_soon(reaper.run)
            with trio.fail_after(30):
                await run(reaper)
            nursery.cancel_scope.cancel()

    async def run(reaper: Reaper) -> None:
        early = subprocess.Popen(["sh", "-c", "exit 3"])
        os.waitid(os.P_PID, early.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
        await trio.testing.wait_all_tasks_blocked(0.05)
        statuses: list[int] = []
        reaper.watch(early.pid, statuses.append)
        assert [os.waitstatus_to_exitcode(status) for status in statuses] == [3]
        early.returncode = 3
        late = subprocess.Popen(["sh", "-c", "read line; kill -9 $$"], stdin=subprocess.PIPE)
        ended = trio.Event()

        def on_exit(status: int) -> None:
            statuses.append(status)
            ended.set()

        reaper.watch(late.pid, on_exit)
        assert late.stdin is not None
        late.stdin.close()
        await ended.wait()
        assert os.waitstatus_to_exitcode(statuses[1]) == -9
        late.returncode = -9

    trio.run(main)


def test_the_reaper_reports_what_ended_before_and_after_it_was_asked() -> None:
    run_isolated(_watch)
