"""A non-blocking descriptor as a byte line."""

import os

import trio

READ_SIZE = 256 << 10


# What the event loop handles in one turn: a peer that floods holds no other task up for longer.
TURN = 64 << 10


class LineClosed(Exception):
    """The other end closed the line (sockets only: a serial line has no end)."""


class Line:
    """A socket or pipe, owned: `close` closes it. Reads and writes are bounded and never block."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        # Whether the last read returned without a wait.
        self._hurried = False

    @property
    def behind(self) -> bool:
        """Whether bytes that `try_write` accepted are still queued: `push` them when the line is writable."""
        return False

    def push(self) -> None:
        """Write queued bytes. LineClosed when the other end has closed."""

    def try_write(self, data: bytes | memoryview) -> int:
        """Write what fits now; return the number of bytes, possibly 0. LineClosed when the other end has closed."""
        view = memoryview(data)
        # A short write does not mean that the line is full: virtio-serial accepts 32 KiB in one call.
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise LineClosed(str(error)) from error
        return len(data) - len(view)

    async def yield_turn(self) -> None:
        """Let other tasks run before the second of two reads that did not wait: a peer that floods never makes a read wait."""
        if self._hurried:
            await trio.lowlevel.checkpoint()
        self._hurried = True

    async def read(self, size: int = READ_SIZE) -> bytes:
        """Return 1 to `size` bytes. LineClosed at the end."""
        await self.yield_turn()
        while True:
            try:
                data = os.read(self.fd, size)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.fd)
                self._hurried = False
                continue
            except OSError as error:
                raise LineClosed(str(error)) from error
            if not data:
                raise LineClosed("end of file")
            return data

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            trio.lowlevel.notify_closing(self.fd)
            os.close(self.fd)
            self.fd = -1
