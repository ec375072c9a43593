"""The server's end of one gRPC connection on asyncio. Messages stay bytes: only the function that serves a call knows their types.

It carries `/grpc` of build clients, and sessions that this daemon serves to BuildKit. The wire is gRPC over HTTP/2
(PROTOCOL-HTTP2.md of grpc): POST /package.Service/Method, messages with a prefix of five bytes, the status in trailers.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from appliance.buildkit.budget import ByteBudget
from appliance.buildkit.server_call import STREAM_WINDOW, ServerCall
from tether.rpc import http2

log = logging.getLogger(__name__)

MAX_STREAMS = 256
# Small steps: a flood of small frames shares the loop with other connections.
_READ = 8 << 10
# A client that reads nothing for so long is gone.
_WRITE_SECONDS = 60.0
_STALL_CHECK_SECONDS = 15.0
# A connection without a call. gRPC's clients dial again when they need to.
_IDLE_SECONDS = 600.0
_LIMITS = http2.Limits(
    max_streams=MAX_STREAMS,
    stream_window=STREAM_WINDOW,
    connection_window=1 << 20,
    max_header_list=32 << 10,
    # The trailers of a failed build hold the Dockerfile.
    max_sent_header_list=1 << 20,
)

Serve = Callable[[ServerCall], Awaitable[None]]
"""Serves one call: receives, sends, and ends by returning (OK), `finish` or an exception (see ServerCall.fail)."""


class Reader(Protocol):
    """asyncio.StreamReader is one."""

    async def read(self, n: int) -> bytes:
        """Some bytes, at most `n`; b"" at the end."""


class Writer(Protocol):
    """asyncio.StreamWriter is one."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def close(self) -> None: ...


class GrpcConnection:
    """One client. `run` serves until either end closes."""

    def __init__(self, reader: Reader, writer: Writer, serve: Serve, budget: ByteBudget) -> None:
        self._reader = reader
        self._writer = writer
        self._serve = serve
        self.budget = budget
        self.http = http2.ServerConnection(_LIMITS)
        self._calls: dict[int, ServerCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle_since = asyncio.get_running_loop().time()
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self, early: bytes = b"") -> None:
        """Serve the connection, and close it. `early`: bytes that the client has sent already. Cancelling ends its calls."""
        self.flush()
        parts = [
            asyncio.create_task(self._read(early)),
            asyncio.create_task(self._write()),
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._ended.wait()),
        ]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [*parts, *self._tasks]
            for task in tasks:
                task.cancel()
            try:
                for result in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(result, Exception):
                        log.error("the connection of a build client failed", exc_info=result)
            finally:
                self._writer.close()

    def end(self) -> None:
        """End the connection, because it holds too much memory."""
        log.warning("a build client holds too much memory: its connection is closed")
        self._ended.set()

    def flush(self) -> None:
        """There may be something to write."""
        self._wake.set()

    # -- the socket -----------------------------------------------------------------------------------------------

    async def _read(self, early: bytes) -> None:
        try:
            for start in range(0, len(early), _READ):
                await self._receive(early[start : start + _READ])
            while not self.http.closed and (data := await self._reader.read(_READ)):
                await self._receive(data)
        except OSError:
            pass
        if self.http.closed:
            # `_write` returns when it has written why.
            await asyncio.Event().wait()

    async def _receive(self, data: bytes) -> None:
        self.http.receive_data(data)
        self._take_events()
        self.flush()
        # The reader returns at once while it has bytes.
        await asyncio.sleep(0)
        # Streams that were opened and reset at once leave calls that still end.
        while len(self._tasks) > 2 * MAX_STREAMS:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while data := self.http.data_to_send():
                self._take_events()
                try:
                    self._writer.write(data)
                    # Not `wait_for`: in Python 3.11 it may lose the cancellation that ends the connection.
                    async with asyncio.timeout(_WRITE_SECONDS):
                        await self._writer.drain()
                except (TimeoutError, OSError):
                    return
            if self.http.closed:
                return

    async def _watch(self) -> None:
        """Return when the connection is idle for too long.

        Until then reset streams that hold reserved bytes and do not move, if others wait for the room.
        """
        while True:
            await asyncio.sleep(_STALL_CHECK_SECONDS)
            if not self._tasks and asyncio.get_running_loop().time() - self._idle_since > _IDLE_SECONDS:
                return
            if self.budget.contended:
                for number, call in list(self._calls.items()):
                    if call.stalled():
                        self.http.reset(number, http2.Code.ENHANCE_YOUR_CALM)
                        self._drop(number)
                self.flush()

    # -- streams --------------------------------------------------------------------------------------------------

    def _take_events(self) -> None:
        while (event := self.http.next_event()) is not None:
            match event:
                case http2.RequestReceived():
                    self._on_request(event)
                case http2.DataReceived(stream, data, size, ended):
                    if (call := self._calls.get(stream)) is not None:
                        call.feed(data, size, ended)
                case http2.StreamReset(stream):
                    self._drop(stream)
                case http2.Writable(stream):
                    if (call := self._calls.get(stream)) is not None:
                        call.wake_writer()
                case http2.Closed(code, text):
                    log.debug("the connection of a build client was closed: %s %s", code.name, text)

    def _on_request(self, event: http2.RequestReceived) -> None:
        headers = dict(event.headers)
        if headers[b":method"] != b"POST" or not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            self.http.send_headers(event.stream, [(b":status", b"415")], end=True)
            return
        call = ServerCall(self, event.stream, event.headers)
        self._calls[event.stream] = call
        if event.ended:
            call.feed(b"", 0, True)
        call.task = asyncio.create_task(call.run(self._serve))
        self._tasks.add(call.task)
        call.task.add_done_callback(partial(self._on_end, call))

    def _on_end(self, call: ServerCall, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._calls.pop(call.stream, None)
        self._idle_since = asyncio.get_running_loop().time()
        call.release()
        self.flush()

    def _drop(self, stream: int) -> None:
        call = self._calls.pop(stream, None)
        if call is not None and call.task is not None:
            call.task.cancel()
