"""Tasks that fail alone: those of one container, one pull, one network."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVarTuple

import trio

log = logging.getLogger(__name__)

Arguments = TypeVarTuple("Arguments")


class IsolatedTasks:
    """Starts tasks in a nursery. An unexpected exception of a task is logged with its traceback, and the other tasks go on.

    A bare nursery would cancel all tasks, and end the daemon, because of what one client, guest or registry sent.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start_soon(self, work: Callable[[*Arguments], Awaitable[object]], *arguments: *Arguments) -> None:
        """See trio.Nursery."""
        self._nursery.start_soon(_isolated, work, arguments, name=work)

    async def start(self, work: Callable[..., Awaitable[object]], *arguments: Any) -> Any:
        """See trio.Nursery: the caller gets an exception that is raised before `task_status.started`."""
        return await self._nursery.start(_isolated_once_started, work, arguments, name=work)


async def _isolated(work: Callable[..., Awaitable[object]], arguments: tuple[Any, ...]) -> None:
    try:
        await work(*arguments)
    except Exception:
        log.exception("%s failed", _name_of(work))


class _Status(trio.TaskStatus[Any]):
    def __init__(self, wrapped: trio.TaskStatus[Any]) -> None:
        self._wrapped = wrapped
        self.is_started = False

    def started(self, value: Any = None) -> None:
        self.is_started = True
        self._wrapped.started(value)


async def _isolated_once_started(
    work: Callable[..., Awaitable[object]], arguments: tuple[Any, ...], *, task_status: trio.TaskStatus[Any]
) -> None:
    status = _Status(task_status)
    try:
        await work(*arguments, task_status=status)
    except Exception:
        if not status.is_started:
            raise
        log.exception("%s failed", _name_of(work))


def _name_of(work: Callable[..., object]) -> str:
    return getattr(work, "__qualname__", repr(work))
