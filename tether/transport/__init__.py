"""Byte lines: the guest's virtio-serial port, sockets, serial lines; and the link run over one of them.

Nothing here knows what the bytes mean.
"""

from tether.transport.junk import JunkAllowance
from tether.transport.line import Line, LineClosed
from tether.transport.linked import FastPath, LineFlooded, LinkedLine
from tether.transport.serial import open_serial
from tether.transport.tls import TlsLine
from tether.transport.virtio import VirtioPort, open_virtio_port

__all__ = [
    "FastPath",
    "JunkAllowance",
    "Line",
    "LineClosed",
    "LineFlooded",
    "LinkedLine",
    "TlsLine",
    "VirtioPort",
    "open_serial",
    "open_virtio_port",
]
