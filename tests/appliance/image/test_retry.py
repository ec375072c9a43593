"""When a registry that fails for now is asked again."""

import pytest
import trio

from appliance.image.retry import Attempts
from appliance.registry import ComeBackLater


async def test_pauses_grow_and_the_fifth_failure_in_a_row_is_the_last(autojump_clock: trio.testing.MockClock) -> None:
    attempts, error = Attempts(), ComeBackLater("busy")
    pauses = []
    for _ in range(4):
        start = trio.current_time()
        await attempts.failed(error)
        pauses.append(trio.current_time() - start)
    assert pauses == pytest.approx([0.5, 1, 2, 4])
    with pytest.raises(ComeBackLater, match="busy"):
        await attempts.failed(error)


async def test_an_answer_resets_the_count(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts()
    for _ in range(20):
        start = trio.current_time()
        await attempts.failed(ComeBackLater("busy"))
        assert trio.current_time() - start == pytest.approx(0.5)
        attempts.succeeded()


async def test_the_registry_may_ask_for_a_pause_but_not_for_a_long_one(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts()
    start = trio.current_time()
    await attempts.failed(ComeBackLater("busy", 7.0))
    assert trio.current_time() - start == pytest.approx(7)
    with pytest.raises(ComeBackLater):
        await attempts.failed(ComeBackLater("busy", 3600.0))
    assert trio.current_time() - start == pytest.approx(7)
