"""Runs the link over a line, by trio. Both ends use it."""

import math
from collections.abc import Callable

import trio

from tether.link import Connection, Event, FrameReader
from tether.transport.junk import JunkAllowance
from tether.transport.line import TURN, Line, LineClosed


class LineFlooded(LineClosed):
    """This end hangs up, since the other end sends too many useless bytes."""


class FastPath:
    """A second, faster line. `over` is set when the link has left it."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.over = trio.Event()


class LinkedLine:
    """Runs one `Connection` over one `Line`, and over a fast path beside that line while there is one.

    `on_event` is called, in the reader, for every event; it may call `send`, `acknowledge` and `flush` right there, so that a
    request can be read, answered and written without a task switch.

    `allowance` bounds the useless bytes of a peer that is not trusted; None: no bound.
    """

    def __init__(
        self,
        line: Line,
        make_id: Callable[[], int],
        on_event: Callable[[Event], None],
        *,
        window: int = 1 << 20,
        allowance: JunkAllowance | None = None,
    ):
        self.line = line
        # The line that is written to; both lines are read.
        self._out = line
        self._fast_path: FastPath | None = None
        self._nursery: trio.Nursery | None = None
        self.connection = Connection(make_id, trio.current_time(), window=window)
        self._on_event = on_event
        self._allowance = allowance
        # Bytes on fast paths that were part of no frame.
        self._skipped = 0
        self._unwritten = memoryview(b"")
        # Cancelled when the line changes while the writer waits for room on the old one.
        self._waiting = trio.CancelScope()
        self._kick = trio.Event()
        self._armed = math.inf
        self.on_room: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Carry the link until the line is closed (LineClosed) or this is cancelled. LineFlooded: see `allowance`."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._write_loop)
                self.flush()
                while True:
                    await self._take(await self.line.read(), self.connection.receive_data)
        finally:
            self._nursery = None
            self._drop_fast_path()

    async def _take(self, data: bytes, receive: Callable[[memoryview, float], None]) -> None:
        """Handle bytes of a line, turn by turn: a read may return thousands of small frames."""
        view = memoryview(data)
        for start in range(0, len(data), TURN):
            if start:
                await trio.lowlevel.checkpoint()
            now = trio.current_time()
            receive(view[start : start + TURN], now)
            if self._allowance is not None and self._allowance.exceeded(self.connection.useless + self._skipped, now):
                raise LineFlooded("the guest sends junk to its tether's port")
            self.deliver()
            self.flush()

    # -- the fast path --------------------------------------------------------------------------------------------

    def attach(self, line: Line) -> FastPath:
        """Write to this line until it breaks, and to the first line again after that. No data is lost either way.

        This object owns the line. It closes an earlier fast path.
        """
        self._drop_fast_path()
        fast_path = FastPath(line)
        if self._nursery is None:
            line.close()
            fast_path.over.set()
            return fast_path
        self._fast_path = fast_path
        self._write_to(line)
        self._nursery.start_soon(self._read_fast_path, fast_path)
        return fast_path

    async def _read_fast_path(self, fast_path: FastPath) -> None:
        reader = FrameReader()

        def receive(data: memoryview, now: float) -> None:
            before = reader.skipped
            self.connection.receive_frames(reader.receive_untrusted(data, now), now)
            self._skipped += reader.skipped - before

        try:
            while not fast_path.over.is_set():
                await self._take(await fast_path.line.read(), receive)
        except LineFlooded:
            raise
        except (LineClosed, trio.ClosedResourceError):
            self._break(fast_path)

    def _break(self, fast_path: FastPath) -> None:
        if self._fast_path is fast_path:
            self._drop_fast_path()
            self._write_to(self.line)

    def _drop_fast_path(self) -> None:
        fast_path, self._fast_path = self._fast_path, None
        if fast_path is not None:
            fast_path.line.close()
            fast_path.over.set()

    def _write_to(self, line: Line) -> None:
        self._out = line
        self._waiting.cancel()
        # Drop the rest of a frame that the old line has begun: the link retransmits what the other end has not acknowledged.
        self._unwritten = memoryview(b"")
        self.connection.line_reconnected(trio.current_time())
        self.flush()

    def _try_write(self, data: bytes | memoryview) -> int:
        """Line.try_write on the current line. When a fast path breaks, the link retransmits its data on the first line."""
        try:
            return self._out.try_write(data)
        except LineClosed:
            if self._fast_path is None:
                raise
            self._break(self._fast_path)
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
        # Wake the writer task only when it has work: a wake costs 0.1 ms in a guest without KVM.
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
            if self._fast_path is not None and self._fast_path.line is out:
                self._break(self._fast_path)
            return
        if out is self._out and self._unwritten:
            # `_try_write` may have replaced the unwritten bytes, when the line broke.
            rest = self._unwritten
            written = self._try_write(rest)
            if self._unwritten is rest:
                self._unwritten = rest[written:]
        if not self._unwritten:
            self.flush()
