"""The event bus: what it stores, and what watchers receive."""

import pytest
import trio

from appliance.container.event import Event
from appliance.engine.model.events import EventBus


def numbered(number: int) -> Event:
    return Event("container", "start", str(number), {}, number)


def test_past_events_since_a_time() -> None:
    bus = EventBus()
    for number in (1, 2, 3):
        bus.publish(numbered(number))
    assert bus.past(0) == [numbered(1), numbered(2), numbered(3)]
    assert bus.past(2) == [numbered(2), numbered(3)]
    assert bus.past(4) == []


def test_only_the_last_256_are_stored() -> None:
    bus = EventBus()
    for number in range(300):
        bus.publish(numbered(number))
    assert bus.past(0) == [numbered(number) for number in range(44, 300)]


async def test_watchers_receive_what_is_new() -> None:
    bus = EventBus()
    bus.publish(numbered(1))
    with bus.watch() as first, bus.watch() as second:
        bus.publish(numbered(2))
        bus.publish(numbered(3))
        for watcher in (first, second):
            assert [await watcher.receive(), await watcher.receive()] == [numbered(2), numbered(3)]


async def test_a_watcher_that_left_holds_nothing_up() -> None:
    bus = EventBus()
    with bus.watch() as left:
        pass
    bus.publish(numbered(1))
    with pytest.raises(trio.ClosedResourceError):
        left.receive_nowait()


async def test_a_watcher_that_does_not_read_ends() -> None:
    bus = EventBus()
    with bus.watch() as lazy, bus.watch() as keen:
        for number in range(5000):
            bus.publish(numbered(number))
            assert keen.receive_nowait() == numbered(number)
        received = [event async for event in lazy]
        # The first ones, in order, then the end: not a gap.
        assert received == [numbered(number) for number in range(len(received))]
        assert 0 < len(received) < 5000
        # The other watcher goes on.
        bus.publish(numbered(5000))
        assert keen.receive_nowait() == numbered(5000)
