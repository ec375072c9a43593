"""The docker CLI on a terminal."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

from tests.live.daemon import Daemon


class Terminal:
    """A real pty with the docker CLI in it."""

    def __init__(self, daemon: Daemon, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self._poll = select.poll()
        self._poll.register(self.master, select.POLLIN)
        self.resize(31, 97)
        self.process = subprocess.Popen(
            daemon.command(*arguments), stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def expect(self, text: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come: {self.seen!r}"
            # Not select(2), which refuses descriptors from 1024 on.
            if self._poll.poll(left * 1000):
                try:
                    self.seen += os.read(self.master, 4096).decode()
                except OSError:
                    time.sleep(0.05)
        self.seen = self.seen.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        code = self.process.wait(60)
        os.close(self.master)
        return code
