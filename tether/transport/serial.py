"""The guest's end of a serial port (16550): bytes without an end, a FIFO of 16 of them at a time."""

import os
import termios

from tether.transport.line import Line


def open_serial(path: str) -> Line:
    """Open a serial port for bytes of any value, as termios(3) has it. OSError when there is none."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    attributes = termios.tcgetattr(fd)
    _, _, _, _, _, _, characters = attributes
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    # No echo, no signals, nothing translated; whether somebody listens at the other end is not asked.
    flags = termios.CS8 | termios.CREAD | termios.CLOCAL
    speed = termios.B115200
    termios.tcsetattr(fd, termios.TCSANOW, [0, 0, flags, 0, speed, speed, characters])
    termios.tcflush(fd, termios.TCIOFLUSH)
    return Line(fd)
