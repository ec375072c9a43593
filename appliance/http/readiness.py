"""Which connections have something to read: one epoll set of our own, in which each stays for its life.

trio puts a descriptor into its set for each wait and takes it out again. A connection that asks and answers many times is
spared these two calls here: the set itself is what trio waits for. Edge triggered (epoll(7)): who reads less than it asked for
has read all.
"""

import select

import trio

_END = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Readiness:
    """`run` must be running while anybody waits."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, trio.lowlevel.Task | None] = {}
        self._ready: set[int] = set()
        self._ended: set[int] = set()

    def add(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        self._waiting[fd] = None

    def remove(self, fd: int) -> None:
        """Must be called before the descriptor is closed, and when nobody waits for it."""
        del self._waiting[fd]
        self._ready.discard(fd)
        self._ended.discard(fd)
        self._epoll.unregister(fd)

    async def wait(self, fd: int) -> None:
        """Return when there may be something to read since the last `drained`."""
        if fd in self._ready:
            await trio.lowlevel.checkpoint()
            return
        self._waiting[fd] = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiting[fd] = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def drained(self, fd: int) -> None:
        """A read has found less than it would have taken."""
        # An end that came with the last bytes is not told again: from then on there is always its b"" to read.
        if fd not in self._ended:
            self._ready.discard(fd)

    async def run(self) -> None:
        """Wake who waits, until cancelled."""
        number = self._epoll.fileno()
        try:
            while True:
                await trio.lowlevel.wait_readable(number)
                for fd, events in self._epoll.poll(0):
                    self._ready.add(fd)
                    if events & _END:
                        self._ended.add(fd)
                    task = self._waiting.get(fd)
                    if task is not None:
                        self._waiting[fd] = None
                        trio.lowlevel.reschedule(task)
        finally:
            self._epoll.close()
