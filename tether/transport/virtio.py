"""The guest's end of a virtio-serial port (VIRTIO 1.1, 5.3; Linux drivers/char/virtio_console.c).

While the host's end is closed, poll(2) returns IN|HUP at once, a read returns b"" and a write fails with EAGAIN. None of them is
the end of the line, and poll cannot wait for a change, so this end tries again after a pause.
"""

import os
from pathlib import Path

import trio

from tether.transport.line import READ_SIZE, Line, LineClosed

_PAGE = 4096
_PAUSES = (0.005, 0.02, 0.05, 0.1, 0.25)


def open_virtio_port(name: str, root: Path = Path("/sys/class/virtio-ports")) -> "VirtioPort":
    """Open the port that has this name in the VM's configuration. FileNotFoundError when there is none."""
    for port in sorted(root.iterdir()):
        if (port / "name").read_text().strip() == name:
            return VirtioPort(os.open(f"/dev/{port.name}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    raise FileNotFoundError(f"no virtio port is named {name}")


class VirtioPort(Line):
    """A line that the other side never closes."""

    _tries = 0

    async def read(self, size: int = READ_SIZE) -> bytes:
        await self.yield_turn()
        empty = 0
        while True:
            try:
                data = os.read(self.fd, size)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.fd)
                self._hurried = False
                continue
            except OSError as error:
                raise LineClosed(str(error)) from error
            if data:
                return data if len(data) < _PAGE else self._read_more(data, size)
            await trio.sleep(_PAUSES[min(empty, len(_PAUSES) - 1)])
            empty += 1

    def _read_more(self, first: bytes, most: int) -> bytes:
        """The driver returns at most a page for each read: collect what else is there, so that the link runs once for all."""
        parts = [first]
        size = len(first)
        while size < most:
            try:
                data = os.read(self.fd, most - size)
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
        # The driver has no callback on its output queue: poll does not wake when the host has made room.
        await trio.sleep(min(0.001 * 2**self._tries, 0.25))
