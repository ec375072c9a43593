"""From the build loop into trio: the other direction of `tether.rpc.bridge.LoopThread.run`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import trio

T = TypeVar("T")


class TrioPortal:
    """Runs functions as tasks of a nursery of trio, for coroutines of the build loop."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["TrioPortal"]:
        """A portal whose functions are cancelled at the end of the block."""
        async with trio.open_nursery() as nursery:
            portal = cls(nursery)
            try:
                yield portal
            finally:
                portal._closed = True
                nursery.cancel_scope.cancel()

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a function on trio, and return what it returns. Cancelling this cancels it, and waits until it has ended.

        asyncio.CancelledError also when the portal is closed.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[T] = loop.create_future()
        scope = trio.CancelScope()

        def end(result: T | None, error: BaseException | None) -> None:
            if ended.done():
                return
            if error is not None:
                ended.set_exception(error)
            else:
                ended.set_result(result)  # type: ignore[arg-type]

        def report(result: T | None, error: BaseException | None) -> None:
            try:
                loop.call_soon_threadsafe(end, result, error)
            except RuntimeError:  # The loop is closed: nobody waits.
                pass

        async def task() -> None:
            result: T | None = None
            error: BaseException | None = asyncio.CancelledError()
            try:
                with scope:
                    result = await function()
                    error = None
            except Exception as caught:
                error = caught
            finally:
                report(result, error)

        def start() -> None:
            if self._closed:
                report(None, asyncio.CancelledError())
            else:
                self._nursery.start_soon(task)

        self._enter(start, report)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            if not ended.done():
                self._enter(scope.cancel, report)
                await _wait_shielded(ended)
            raise

    def _enter(self, step: Callable[[], object], report: Callable[[None, BaseException], None]) -> None:
        try:
            self._token.run_sync_soon(step)
        except trio.RunFinishedError:
            report(None, asyncio.CancelledError())

    @asynccontextmanager
    async def enter(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[T]:
        """The context manager that `make` returns, entered and left on trio, for a block of the build loop.

        It does not see an exception of the block.
        """
        loop = asyncio.get_running_loop()
        entered: asyncio.Future[T] = loop.create_future()
        left = trio.Event()

        def enter(value: T) -> None:
            if not entered.done():
                entered.set_result(value)

        async def hold() -> None:
            async with make() as value:
                loop.call_soon_threadsafe(enter, value)
                await left.wait()

        holder = asyncio.create_task(self.run(hold))
        try:
            waits: list[asyncio.Future[Any]] = [holder, entered]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not entered.done():
                await holder
            yield entered.result()
        except BaseException:
            if not entered.done():
                holder.cancel()
            self._enter(left.set, _ignore)
            await _wait_shielded(holder)
            raise
        self._enter(left.set, _ignore)
        await _wait_shielded(holder)
        holder.result()


def _ignore(result: None, error: BaseException) -> None:
    """The portal is closed already."""


async def _wait_shielded(future: "asyncio.Future[T]") -> None:
    """Wait until the future is done, also while this is cancelled."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    if not future.cancelled():
        future.exception()
    if cancelled:
        raise asyncio.CancelledError
