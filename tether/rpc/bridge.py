"""One asyncio loop in its own thread, and calls into it from trio."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

T = TypeVar("T")


class CallAbandoned(Exception):
    """The coroutine was cancelled from the loop's side: its channel was closed."""


class LoopThread:
    """The loop of grpc.aio: all channels of the process live on it, so that none needs its own thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="grpc", daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["LoopThread"]:
        thread = cls()
        thread._thread.start()
        try:
            yield thread
        finally:
            thread.loop.call_soon_threadsafe(thread.loop.stop)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(thread._thread.join)

    async def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the loop and return what it returns. Cancelling this cancels it, and waits until it has ended."""
        trio_task = trio.lowlevel.current_task()
        token = trio.lowlevel.current_trio_token()
        running: list[asyncio.Task[T]] = []
        raise_cancel: list[Callable[[], Any]] = []
        finished: list[asyncio.Task[T]] = []

        def start() -> None:
            task = self.loop.create_task(make())
            running.append(task)
            task.add_done_callback(done)
            if raise_cancel:
                task.cancel()

        def done(task: asyncio.Task[T]) -> None:
            finished.append(task)
            try:
                token.run_sync_soon(trio.lowlevel.reschedule, trio_task)
            except trio.RunFinishedError:
                pass

        def abort(raise_: Callable[[], Any]) -> trio.lowlevel.Abort:
            raise_cancel.append(raise_)
            self.loop.call_soon_threadsafe(lambda: running and running[0].cancel())
            return trio.lowlevel.Abort.FAILED

        self.loop.call_soon_threadsafe(start)
        await trio.lowlevel.wait_task_rescheduled(abort)
        if finished[0].cancelled():
            if raise_cancel:
                raise_cancel[0]()
            raise CallAbandoned("the channel was closed under a call")
        return finished[0].result()
