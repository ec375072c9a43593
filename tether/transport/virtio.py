"""The guest's end of a virtio-serial port (VIRTIO 1.1, 5.3; Linux drivers/char/virtio_console.c).

While nobody has the host's end open, poll says IN|HUP at once, a read gives b"" and a write EAGAIN: none of them is an end,
and none can be waited for, so this end looks again after a while.
"""

import os
from pathlib import Path

import trio

from tether.transport.line import READ_SIZE, Line, LineClosed

_LOOK_AGAIN = (0.005, 0.02, 0.05, 0.1, 0.25)


def open_virtio_port(name: str, root: Path = Path("/sys/class/virtio-ports")) -> "VirtioPort":
    """Open the port that the hypervisor named so. FileNotFoundError when there is none."""
    for port in sorted(root.iterdir()):
        if (port / "name").read_text().strip() == name:
            return VirtioPort(os.open(f"/dev/{port.name}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    raise FileNotFoundError(f"no virtio port is named {name}")


class VirtioPort(Line):
    """A line that is never closed by the other side."""

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
                return data
            await trio.sleep(_LOOK_AGAIN[min(empty, len(_LOOK_AGAIN) - 1)])
            empty += 1

    async def wait_writable(self) -> None:
        # With the host's end absent this returns at once although a write would fail: the pause keeps that from spinning.
        await trio.lowlevel.wait_writable(self.fd)
        await trio.sleep(0.001)
