"""The guest's end of a virtio-serial port (VIRTIO 1.1, 5.3; Linux drivers/char/virtio_console.c).

While nobody has the host's end open, poll says IN|HUP at once, a read gives b"" and a write EAGAIN: none of them is an end,
and none can be waited for, so this end looks again after a while.
"""

import os
from pathlib import Path

import trio

from tether.transport.line import READ_SIZE, Line, LineClosed

_PAGE = 4096
_LOOK_AGAIN = (0.005, 0.02, 0.05, 0.1, 0.25)


def open_virtio_port(name: str, root: Path = Path("/sys/class/virtio-ports")) -> "VirtioPort":
    """Open the port that the hypervisor named so. FileNotFoundError when there is none."""
    for port in sorted(root.iterdir()):
        if (port / "name").read_text().strip() == name:
            return VirtioPort(os.open(f"/dev/{port.name}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    raise FileNotFoundError(f"no virtio port is named {name}")


class VirtioPort(Line):
    """A line that is never closed by the other side."""

    _tries = 0

    async def read(self) -> bytes:
        empty = 0
        while True:
            try:
                data = os.read(self.fd, READ_SIZE)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.fd)
                continue
            except OSError as error:
                raise LineClosed(str(error)) from error
            if data:
                return data if len(data) < _PAGE else self._read_more(data)
            await trio.sleep(_LOOK_AGAIN[min(empty, len(_LOOK_AGAIN) - 1)])
            empty += 1

    def _read_more(self, first: bytes) -> bytes:
        """The driver gives a page a call: take what else is there, so that the link is run once and not once a page."""
        parts = [first]
        size = len(first)
        while size < READ_SIZE:
            try:
                data = os.read(self.fd, READ_SIZE)
            except OSError:
                break
            parts.append(data)
            size += len(data)
            if len(data) < _PAGE:
                break
        return b"".join(parts)

    def try_write(self, data: bytes | memoryview) -> int:
        written = super().try_write(data)
        self._tries = 0 if written else self._tries + 1
        return written

    async def wait_writable(self) -> None:
        # The driver has no callback on its output queue: nothing wakes a poll when the host has made room.
        await trio.sleep(min(0.001 * 2**self._tries, 0.25))
