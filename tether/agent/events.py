"""Events of protos/tether/v1/events.proto: numbered, the last 1024 kept."""

import time
from collections import deque

import trio

from protos.tether.v1 import events_pb2
from tether.rpc.server import Call
from tether.rpc.status import Code, RpcError

_KEPT = 1024


class EventsService:
    def __init__(self) -> None:
        self._events: deque[events_pb2.Event] = deque(maxlen=_KEPT)
        self._next = 1
        self._news = trio.Event()

    def publish(self, **body: object) -> None:
        """Append an event with one body, e.g. `publish(started=events_pb2.Started(...))`."""
        self._events.append(events_pb2.Event(sequence=self._next, time_ns=time.time_ns(), **body))  # type: ignore[arg-type]
        self._next += 1
        news, self._news = self._news, trio.Event()
        news.set()

    async def watch(self, request: events_pb2.WatchRequest, call: Call) -> None:
        wanted = max(1, getattr(request, "from"))
        if self._events and wanted < self._events[0].sequence:
            raise RpcError(
                Code.OUT_OF_RANGE, f"event {wanted} has been forgotten, the first kept is {self._events[0].sequence}"
            )
        while True:
            for event in list(self._events):
                if event.sequence >= wanted:
                    await call.send(event)
                    wanted = event.sequence + 1
            if wanted >= self._next:
                await self._news.wait()
