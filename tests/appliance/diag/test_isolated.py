"""What fails alone."""

import logging

import pytest
import trio

from appliance.diag.isolated import IsolatedTasks


async def _fail(text: str, task_status: "trio.TaskStatus[str]" = trio.TASK_STATUS_IGNORED) -> None:
    if text == "late":
        task_status.started(text)
    await trio.lowlevel.checkpoint()
    raise RuntimeError(text)


async def test_a_failed_task_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    done = []

    async def work() -> None:
        await trio.testing.wait_all_tasks_blocked()
        done.append(True)

    with caplog.at_level(logging.ERROR):
        async with trio.open_nursery() as nursery:
            tasks = IsolatedTasks(nursery)
            tasks.start_soon(_fail, "by itself")
            tasks.start_soon(work)
    assert done
    assert "_fail failed" in caplog.text
    assert "RuntimeError: by itself" in caplog.text


async def test_a_failure_before_the_start_reaches_the_caller() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(RuntimeError, match="early"):
            await IsolatedTasks(nursery).start(_fail, "early")


async def test_a_failure_after_the_start_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with trio.open_nursery() as nursery:
        assert await IsolatedTasks(nursery).start(_fail, "late") == "late"
    assert "RuntimeError: late" in caplog.text


async def test_cancelling_reaches_the_tasks() -> None:
    async with trio.open_nursery() as nursery:
        IsolatedTasks(nursery).start_soon(trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
