"""A serial port carries bytes of any value; the test uses a pseudo-terminal."""

import os

from tether.transport import Line, open_serial


async def test_no_byte_is_translated() -> None:
    master, slave = os.openpty()
    port = open_serial(os.ttyname(slave))
    host = Line(master)
    data = bytes(range(256))
    try:
        for sender, receiver in ((host, port), (port, host)):
            assert sender.try_write(data) == len(data)
            received = b""
            while len(received) < len(data):
                received += await receiver.read()
            assert received == data
    finally:
        os.close(slave)
        port.close()
        host.close()
