"""The link, run over a line by trio: both ends use it."""

import math
from collections.abc import Callable

import trio

from tether.link import Connection, Event, FrameReader
from tether.transport.line import Line, LineClosed


class FastPath:
    """A second line, which is quicker than the first. `over` is set when it is of no use any more."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.over = trio.Event()


class LinkedLine:
    """Runs one `Connection` over one `Line`, and over a quicker one beside it as long as there is one.

    `on_event` is called, in the reader, for every event; it may call `send`, `acknowledge` and `flush` right there, so that a
    request can be read, answered and written without a task switch.
    """

    def __init__(
        self, line: Line, make_id: Callable[[], int], on_event: Callable[[Event], None], *, window: int = 1 << 20
    ):
        self.line = line
        # Where what goes out is written.
        self._out = line
        self._quick: FastPath | None = None
        self._nursery: trio.Nursery | None = None
        self.connection = Connection(make_id, trio.current_time(), window=window)
        self._on_event = on_event
        self._unwritten = memoryview(b"")
        # While the writer waits for a line that is full: another one need not be.
        self._waiting = trio.CancelScope()
        self._kick = trio.Event()
        self._armed = math.inf
        self.on_room: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Carry the link until the line is closed (LineClosed) or this is cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._write_loop)
                self.flush()
                while True:
                    data = await self.line.read()
                    self.connection.receive_data(data, trio.current_time())
                    self.deliver()
                    self.flush()
        finally:
            self._nursery = None
            self._give_up_quick()

    # -- the quicker line -----------------------------------------------------------------------------------------

    def attach(self, line: Line) -> FastPath:
        """Write to this line from now on, until it breaks: then to the first one again. Nothing is lost either way.

        The line is owned. An earlier one is given up.
        """
        self._give_up_quick()
        quick = FastPath(line)
        if self._nursery is None:
            line.close()
            quick.over.set()
            return quick
        self._quick = quick
        self._write_to(line)
        self._nursery.start_soon(self._read_quick, quick)
        return quick

    async def _read_quick(self, quick: FastPath) -> None:
        reader = FrameReader()
        try:
            while not quick.over.is_set():
                data = await quick.line.read()
                now = trio.current_time()
                self.connection.receive_frames(reader.receive_untrusted(data, now), now)
                self.deliver()
                self.flush()
        except (LineClosed, trio.ClosedResourceError):
            self._break(quick)

    def _break(self, quick: FastPath) -> None:
        if self._quick is quick:
            self._give_up_quick()
            self._write_to(self.line)

    def _give_up_quick(self) -> None:
        quick, self._quick = self._quick, None
        if quick is not None:
            quick.line.close()
            quick.over.set()

    def _write_to(self, line: Line) -> None:
        self._out = line
        self._waiting.cancel()
        # The rest of a frame is of no use elsewhere: what the other end has not heard is said again.
        self._unwritten = memoryview(b"")
        self.connection.line_reconnected(trio.current_time())
        self.flush()

    def _try_write(self, data: bytes | memoryview) -> int:
        """Line.try_write, on whichever line; what a line that breaks has taken is said again on the other."""
        try:
            return self._out.try_write(data)
        except LineClosed:
            if self._quick is None:
                raise
            self._break(self._quick)
            return len(data)

    # -- out ------------------------------------------------------------------------------------------------------

    def deliver(self) -> None:
        """Give the connection's events to `on_event`."""
        while (event := self.connection.next_event()) is not None:
            self._on_event(event)

    def flush(self) -> None:
        """Write what can be written without waiting; the writer task does the rest."""
        while not self._unwritten:
            data = self.connection.data_to_send(trio.current_time())
            if not data:
                self.on_room()
                data = self.connection.data_to_send(trio.current_time())
                if not data:
                    break
            written = self._try_write(data)
            if written < len(data):
                self._unwritten = memoryview(data)[written:]
        # The writer task is woken only for what it has to do: each wake costs a guest without KVM a tenth of a millisecond.
        deadline = self.connection.next_deadline()
        if self._unwritten or self._out.behind or (deadline is not None and deadline < self._armed):
            self._kick.set()

    async def _write_loop(self) -> None:
        while True:
            self._kick = trio.Event()
            if self._unwritten or self._out.behind:
                await self._write_rest()
                continue
            deadline = self.connection.next_deadline()
            self._armed = math.inf if deadline is None else deadline
            with trio.move_on_at(self._armed) as waiting:
                await self._kick.wait()
            self._armed = -math.inf
            if waiting.cancelled_caught:
                self.flush()
                self.deliver()

    async def _write_rest(self) -> None:
        out = self._out
        try:
            with trio.CancelScope() as self._waiting:
                await out.wait_writable()
            if out is self._out:
                out.push()
        except (LineClosed, trio.ClosedResourceError):
            if out is self.line:
                raise
            if self._quick is not None and self._quick.line is out:
                self._break(self._quick)
            return
        if out is self._out and self._unwritten:
            # Looked at after the write: a line that broke has thrown it away.
            rest = self._unwritten
            written = self._try_write(rest)
            if self._unwritten is rest:
                self._unwritten = rest[written:]
        if not self._unwritten:
            self.flush()
