"""The guest's end of a serial port (16550, FIFO of 16 bytes). It has no end of file."""

import os
import termios

from tether.transport.line import Line


def open_serial(path: str) -> Line:
    """Open a serial port in raw mode (termios(3)). OSError when there is none."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    attributes = termios.tcgetattr(fd)
    _, _, _, _, _, _, characters = attributes
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    # No echo, no signals, no translation; modem control lines are ignored (CLOCAL).
    flags = termios.CS8 | termios.CREAD | termios.CLOCAL
    speed = termios.B115200
    termios.tcsetattr(fd, termios.TCSANOW, [0, 0, flags, 0, speed, speed, characters])
    termios.tcflush(fd, termios.TCIOFLUSH)
    return Line(fd)
