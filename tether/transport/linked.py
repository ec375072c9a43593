"""The link, run over a line by trio: both ends use it."""

import math
from collections.abc import Callable

import trio

from tether.link import Connection, Event
from tether.transport.line import Line


class LinkedLine:
    """Runs one `Connection` over one `Line`.

    `on_event` is called, in the reader, for every event; it may call `send`, `acknowledge` and `flush` right there, so that a
    request can be read, answered and written without a task switch.
    """

    def __init__(
        self, line: Line, make_id: Callable[[], int], on_event: Callable[[Event], None], *, window: int = 1 << 20
    ):
        self.line = line
        self.connection = Connection(make_id, trio.current_time(), window=window)
        self._on_event = on_event
        self._unwritten = memoryview(b"")
        self._kick = trio.Event()
        self._armed = math.inf
        self.on_room: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Carry the link until the line is closed (LineClosed) or this is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_loop)
            self.flush()
            while True:
                data = await self.line.read()
                self.connection.receive_data(data, trio.current_time())
                self.deliver()
                self.flush()

    def deliver(self) -> None:
        """Give the connection's events to `on_event`."""
        while (event := self.connection.next_event()) is not None:
            self._on_event(event)

    def flush(self) -> None:
        """Write what can be written without waiting; the writer task does the rest."""
        if not self._unwritten:
            while True:
                data = self.connection.data_to_send(trio.current_time())
                if not data:
                    self.on_room()
                    data = self.connection.data_to_send(trio.current_time())
                    if not data:
                        break
                written = self.line.try_write(data)
                if written < len(data):
                    self._unwritten = memoryview(data)[written:]
                    break
        # The writer task is woken only for what it has to do: each wake costs a guest without KVM a tenth of a millisecond.
        deadline = self.connection.next_deadline()
        if self._unwritten or (deadline is not None and deadline < self._armed):
            self._kick.set()

    async def _write_loop(self) -> None:
        while True:
            self._kick = trio.Event()
            if self._unwritten:
                await self.line.wait_writable()
                if self._unwritten:
                    self._unwritten = self._unwritten[self.line.try_write(self._unwritten) :]
                if not self._unwritten:
                    self.flush()
                continue
            deadline = self.connection.next_deadline()
            self._armed = math.inf if deadline is None else deadline
            with trio.move_on_at(self._armed) as waiting:
                await self._kick.wait()
            self._armed = -math.inf
            if waiting.cancelled_caught:
                self.flush()
                self.deliver()
