"""Events for `docker events`: the last 256 are stored, watchers receive new events at once."""

from collections import deque
from collections.abc import AsyncIterator

import trio

from appliance.container.event import Event

_KEPT = 256
_WAITING = 4096


class EventBus:
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

    def watch(self, since_ns: int | None) -> tuple[list[Event], AsyncIterator[Event]]:
        """(Stored events from `since_ns` on, unix ns; all events after this call)."""
        past = [event for event in self._past if since_ns is not None and event.time_ns >= since_ns]
        sender, receiver = trio.open_memory_channel[Event](_WAITING)
        self._watchers.append(sender)

        async def live() -> AsyncIterator[Event]:
            try:
                async for event in receiver:
                    yield event
            finally:
                receiver.close()
                if sender in self._watchers:
                    self._watchers.remove(sender)

        return past, live()
