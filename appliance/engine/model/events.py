"""Events for `docker events`: the last 256 are stored, watchers receive new events at once."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from appliance.container.event import Event
from appliance.roles import sees

_KEPT = 256
_WAITING = 4096


class EventBus:
    """Stores and distributes events."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=_KEPT)
        # Each with the scope whose events it receives, "" for all events.
        self._watchers: list[tuple[trio.MemorySendChannel[Event], str]] = []

    def publish(self, event: Event) -> None:
        self._past.append(event)
        for watcher in list(self._watchers):
            sender, scope = watcher
            if not sees(scope, event.owner):
                continue
            try:
                sender.send_nowait(event)
            except trio.WouldBlock:
                # The client does not read: its stream ends, so that the queue stays bounded.
                self._watchers.remove(watcher)
                sender.close()

    def past(self, since_ns: int, scope: str = "") -> list[Event]:
        """Stored events of a scope, "" for all events, from `since_ns` on, unix ns."""
        return [event for event in self._past if event.time_ns >= since_ns and sees(scope, event.owner)]

    @contextmanager
    def watch(self, scope: str = "") -> Iterator[trio.MemoryReceiveChannel[Event]]:
        """The events of a scope, "" for all events, from now on, while the block lasts.

        The channel ends for a watcher that does not read.
        """
        sender, receiver = trio.open_memory_channel[Event](_WAITING)
        watcher = (sender, scope)
        self._watchers.append(watcher)
        try:
            with sender, receiver:
                yield receiver
        finally:
            if watcher in self._watchers:
                self._watchers.remove(watcher)
