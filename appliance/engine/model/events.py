"""Events for `docker events`: the last 256 are stored, watchers receive new events at once."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from appliance.container.event import Event

_KEPT = 256
_WAITING = 4096


class EventBus:
    """Stores and distributes events."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=_KEPT)
        self._watchers: list[trio.MemorySendChannel[Event]] = []

    def publish(self, event: Event) -> None:
        self._past.append(event)
        for watcher in list(self._watchers):
            try:
                watcher.send_nowait(event)
            except trio.WouldBlock:
                # The client does not read: its stream ends, so that the queue stays bounded.
                self._watchers.remove(watcher)
                watcher.close()

    def past(self, since_ns: int) -> list[Event]:
        """Stored events from `since_ns` on, unix ns."""
        return [event for event in self._past if event.time_ns >= since_ns]

    @contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[Event]]:
        """All events from now on, while the block lasts. The channel ends for a watcher that does not read."""
        sender, receiver = trio.open_memory_channel[Event](_WAITING)
        self._watchers.append(sender)
        try:
            with sender, receiver:
                yield receiver
        finally:
            if sender in self._watchers:
                self._watchers.remove(sender)
