"""Which connections have bytes to read: one epoll set of our own. Each connection stays in it for its whole life.

trio adds a descriptor to its own set for each wait and removes it afterwards. A connection with many requests saves these
two system calls here: what trio waits for is our set. The set is edge triggered (epoll(7)): a read that returns less than
it asked for has read everything.
"""

import select

import trio

_END = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Readiness:
    """`run` must be running while a task waits."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, trio.lowlevel.Task | None] = {}
        self._ready: set[int] = set()
        self._ended: set[int] = set()

    def add(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        self._waiting[fd] = None

    def remove(self, fd: int) -> None:
        """Must be called before the descriptor is closed, and when no task waits for it."""
        del self._waiting[fd]
        self._ready.discard(fd)
        self._ended.discard(fd)
        if not self._epoll.closed:  # when all is cancelled, `run` may end first
            self._epoll.unregister(fd)

    async def wait(self, fd: int) -> None:
        """Return when there may be bytes to read, or an end, since the last `drained`."""
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
        # epoll does not report an end again that came with the last bytes. From then on a read always returns b"".
        if fd not in self._ended:
            self._ready.discard(fd)

    async def run(self) -> None:
        """Wake the tasks that wait, until cancelled."""
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
